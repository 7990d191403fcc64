//! vm.toml as a user meets it: diagnostics, `check`, `explain`, `schema`, `show`.

mod common;
use common::World;

#[test]
fn errors_show_file_line_caret_and_the_nearest_name() {
    let w = World::new();
    w.write("a.toml", "[vm]\nmemm = \"1G\"\n");
    let err = w.run(&["check", "a.toml"]).fails(78);
    assert!(err.contains("a.toml:2:1: unknown key `memm`; did you mean `mem`?"), "{err}");
    assert!(err.contains("2 | memm = \"1G\"\n  | ^^^^"), "{err}");
    assert!(err.contains("expected one of name, kernel, mem,"), "{err}");
    w.write("b.toml", "[vm]\nmem = \"lots\"\n");
    let err = w.run(&["check", "b.toml"]).fails(78);
    assert!(err.contains("b.toml:2:7:") && err.contains("\"512M\""), "{err}");
    w.write("c.toml", "[[disk]]\nfile = \"missing.img\"\n");
    let err = w.run(&["start", "c.toml"]).fails(78);
    assert!(err.contains("c.toml:2:8: there is no file"), "{err}");
    assert!(!err.contains("umld image build"), "{err}");
    // What is wrong by default is shown where the table is, be it in another file.
    w.write("base.toml", "[boot]\ninit = \"/bin/sh\"\nroot = \"/\"\n\n[[net]]\n");
    w.write("own.toml", "extends = \"base.toml\"\n[vm]\nkernel = \"/bin/sh\"\n");
    let err = w.run(&["check", "own.toml"]).fails(78);
    assert!(err.contains("base.toml:5:1: mode \"user\": only the built-in kernel"), "{err}");
    // As examples/debian.toml before there is an image.
    w.write("i.toml", "[[disk]]\nfile = \"~/.uml/.umld/.images/debian.img\"\n");
    let err = w.run(&["check", "i.toml"]).fails(78);
    assert!(err.contains("umld image build --suite bookworm debian"), "{err}");
    for (text, at, words) in [
        ("mode = \"taps\"", "2:8", "did you mean \"tap\"?"),
        ("mode = \"switch\"", "2:8", "needs options.socket"),
        ("mode = \"raw\"", "2:8", "needs options.ifname"),
        ("ports = [\"80\"]", "2:10", "PORT:GUEST PORT"),
        ("mode = \"tap\"\nports = [\"80:80\"]", "3:9", "mode \"user\" only"),
        ("options.net = \"10.0.0.1/24\"", "2:15", "such as 10.0.2.0/24"),
        ("address = \"10.0.0.1\"", "2:11", "prefix length"),
        ("gateway = \"10.0.0.1\"", "2:11", "without an `address`"),
        ("mac = \"01:00:00:00:00:00\"", "2:7", "a station"),
        ("id = \"eth0\"", "2:6", "vec0"),
        ("mode = \"switch\"\noptions.socket = \"s\"\nid = \"vec0\"", "4:6", "eth0"),
    ] {
        w.write("d.toml", &format!("[[net]]\n{text}\n"));
        let err = w.run(&["check", "d.toml"]).fails(78);
        assert!(err.contains(&format!("d.toml:{at}:")) && err.contains(words), "{text}: {err}");
    }
    assert!(w.run(&["check", "nowhere.toml"]).fails(78).contains("nowhere.toml"));
    w.write("e.toml", "[boot\n");
    assert!(w.run(&["check", "e.toml"]).fails(78).contains("e.toml:1"));
}

#[test]
fn the_command_line_is_what_the_file_says() {
    let w = World::new();
    w.write("disk.img", "x");
    w.write(
        "base.toml",
        "[vm]\nname = \"base\"\nmem = \"1G\"\nncpus = 2\n[[disk]]\nid = \"ubdb\"\nfile = \"disk.img\"\nreadonly = true\n",
    );
    w.write(
        "box.toml",
        "extends = \"base.toml\"\n[vm]\nmem = \"64M\"\ncmdline = \"one two\"\n[[disk]]\nid = \"ubdb\"\nsync = true\n\
         [[console]]\nid = \"con1\"\nchannel = \"port:9000\"\n[boot]\ninit = \"/bin/sh\"\n[guest.env]\nA = \"b c\"\n",
    );
    let v = w.json(&["explain", "--json", "box.toml"]);
    let words: Vec<&str> =
        v["arguments"].as_array().unwrap().iter().filter_map(|a| a.as_str()).collect();
    let disk = format!("ubd1rs={}", w.path("disk.img").display());
    for word in [
        "umid=box",
        "mem=64M",
        "ncpus=2",
        disk.as_str(),
        "root=/dev/ubdb",
        "rw",
        "init=/bin/sh",
        "con1=port:9000",
        "A=\"b c\"",
        "con=null",
    ] {
        assert!(words.contains(&word), "{word} in {words:?}");
    }
    assert_eq!(words[words.len() - 2..], ["one", "two"]);
    assert_eq!(v["argv0"], "linux");
    // As a shell takes it, it is the same.
    let text = w.run(&["explain", "box.toml"]).ok();
    assert!(text.contains("'A=\"b c\"'"), "{text}");
    w.write("loop.toml", "extends = \"loop.toml\"\n");
    assert!(w.run(&["check", "loop.toml"]).fails(78).contains("extend itself"));
}

#[test]
fn interfaces_become_words() {
    let w = World::new();
    w.write(
        "net.toml",
        "[[net]]\nports = [\"8080:80\", \"0.0.0.0:53:53/udp\"]\nmac = \"02:00:00:00:00:01\"\noptions.loopback = \"0\"\n\
         [[net]]\nmode = \"tap\"\noptions.ifname = \"tap7\"\n[[net]]\nmode = \"none\"\n",
    );
    let list = |file: &str| {
        let v = w.json(&["explain", "--json", file]);
        let all = v["arguments"].as_array().unwrap().clone();
        all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let words = list("net.toml");
    for word in [
        "vec0:transport=user,mac=02:00:00:00:00:01,loopback=0,hostfwd=tcp::8080-:80,hostfwd=udp:0.0.0.0:53-:53",
        "ip=10.0.2.15::10.0.2.2:255.255.255.0::vec0:off:10.0.2.3",
    ] {
        assert!(words.iter().any(|w| w == word), "{word} in {words:?}");
    }
    assert!(
        words.iter().any(|w| w.starts_with("vec1:transport=tap,") && w.ends_with(",ifname=tap7"))
    );
    assert!(!words.iter().any(|w| w.starts_with("vec2")));
    w.write(
        "given.toml",
        "[[net]]\nmode = \"tap\"\naddress = \"192.168.5.2/24\"\ngateway = \"192.168.5.1\"\ndns = [\"192.168.5.1\"]\n",
    );
    let word = "ip=192.168.5.2::192.168.5.1:255.255.255.0::vec0:off:192.168.5.1";
    assert!(list("given.toml").iter().any(|w| w == word));
}

#[test]
fn the_schema_knows_every_table() {
    let w = World::new();
    let v = w.json(&["schema"]);
    for key in
        ["vm", "disk", "net", "console", "boot", "stop", "resources", "service", "guest", "extends"]
    {
        assert!(v["properties"].get(key).is_some(), "{key}");
    }
    assert_eq!(v["additionalProperties"], false);
}

#[test]
fn definitions_are_kept_shown_renamed_and_removed() {
    let w = World::new();
    let file = w.machine("m", "true", "");
    assert_eq!(w.run(&["create", file.to_str().unwrap()]).ok(), "m\n");
    assert_eq!(w.run(&["list", "-q"]).ok(), "m\n");
    assert_eq!(w.state("m"), "created");
    let shown = w.run(&["show", "m"]).ok();
    assert!(shown.contains("mem = \"128M\"") && shown.starts_with("# from "), "{shown}");
    w.run(&["rename", "m", "n"]).ok();
    assert!(w.run(&["show", "m"]).fails(4).contains("no instance \"m\""));
    assert!(w.run(&["show", "n"]).ok().contains("name = \"n\""));
    w.run(&["rm", "n"]).ok();
    assert_eq!(w.run(&["list", "-q"]).ok(), "");
    assert!(!w.path(".uml/.umld/n").exists());
}
