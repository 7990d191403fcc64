//! The client against a served console: commands, scripts, JSON, failures.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use common::{CLIENT, Home, Run, VERSION, long_file, stock};

fn ok(text: &str) -> Run {
    Run { status: Some(0), stdout: text.to_owned(), stderr: String::new() }
}

#[test]
fn one_shot_commands_print_the_answer_and_give_its_status() {
    let home = Home::new();
    let instance = home.start("box");
    assert_eq!(home.ours(&["box", "version"]), ok(&format!("OK {VERSION}\n")));
    let socket = instance.socket.display().to_string();
    assert_eq!(home.ours(&[&socket, "version"]), ok(&format!("OK {VERSION}\n")));
    assert_eq!(home.ours(&["box", "config", "ubd0"]), ok("OK /img/root\n"));
    let run = home.ours(&["box", "proc", "long"]);
    assert_eq!(run, ok(&format!("OK \n{}\n", long_file())));
    for (command, text, status) in [
        ("remove ubd9", "Device doesn't exist", 237),
        ("remove ubd0", "Device is currently open", 240),
        ("config con0=pts", "Device is already configured", 234),
        ("nonsense", "Unknown command", 1),
    ] {
        let run = home.ours(&["box", command]);
        assert_eq!((run.status, run.stdout), (Some(status), format!("ERR {text}\n")));
    }
}

#[test]
fn file_names_are_made_absolute() {
    let home = Home::new();
    let instance = home.start("box");
    home.ours(&["box", "config", "ubd1=cow,base"]);
    let here = home.path().canonicalize().expect("home");
    let expected = format!("config ubd1={0}/cow,{0}/base", here.display());
    assert_eq!(instance.requests.recv().expect("request"), expected);
    home.ours(&["box", "config", "ubd=sync"]);
    assert_eq!(instance.requests.recv().expect("request"), "config ubd=sync");
}

#[test]
fn log_text_is_sent_in_pieces_and_ends_with_a_newline() {
    let home = Home::new();
    let instance = home.start("box");
    let text = "x".repeat(1100) + "\n";
    fs::write(home.path().join("notes"), &text).expect("notes");
    assert_eq!(home.ours(&["box", "log", "-f", "notes"]), ok("OK \nOK \nOK \n"));
    let pieces: Vec<String> = instance.requests.try_iter().collect();
    assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [510, 510, 93]);
    assert_eq!(pieces.iter().map(|piece| &piece[4..]).collect::<String>(), text);
    home.ours(&["box", "log", "hi"]);
    assert_eq!(instance.requests.try_iter().collect::<Vec<_>>(), ["log hi", "log \n"]);
    let run = home.ours(&["box", "log", "-f", "missing"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("opening file: No such file or directory"), "{run:?}");
}

#[test]
fn scripts_run_to_the_end_and_report_the_first_failure() {
    let home = Home::new();
    let _first = home.start("box");
    let _second = home.start("other");
    let script = "# a comment\n\nversion\nremove ubd0\nswitch other\nconfig ubd0\nremove ubd9\n\
                  quit\nversion\n";
    let run = home.run(CLIENT, &["box"], script);
    let expected = format!(
        "OK {VERSION}\nERR Device is currently open\nSwitched to 'other'\nOK /img/root\nERR \
         Device doesn't exist\n"
    );
    assert_eq!((run.status, run.stdout), (Some(240), expected));
}

#[test]
fn json_answers_are_one_object_per_line() {
    let home = Home::new();
    let instance = home.start("box");
    let run = home.run(CLIENT, &["--json", "box"], "version\nremove ubd9\nswitch nobody\n");
    let lines: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["text"], VERSION);
    assert_eq!((&lines[0]["ok"], &lines[0]["err"]), (&true.into(), &0.into()));
    assert_eq!((&lines[1]["ok"], &lines[1]["err"]), (&false.into(), &(-19).into()));
    assert!(lines[2]["error"].as_str().expect("text").starts_with("no instance \"nobody\""));
    assert_eq!(run.status, Some(237));

    // What gets no answer, or half of one, and who is not there: objects too, and nothing else.
    for (arguments, status, error, text) in [
        (&["nobody", "version"][..], 1, "no instance \"nobody\"", None),
        (&["--timeout=0.2", "box", "silence"], 124, "no answer from ", None),
        (&["--timeout=0.2", "box", "unfinished"], 124, "the answer from ", Some("part")),
        (&["box", "garbage"], 1, "", None),
        (&["box", "log", "-f", "missing"], 1, "opening file: ", None),
        (&["--notify", "/nonexistent/dir/socket"], 1, "notification socket ", None),
    ] {
        let run = home.ours(&[&["--json"], arguments].concat());
        let value: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!((run.status, run.stderr.as_str()), (Some(status), ""), "{arguments:?}");
        assert_eq!((&value["ok"], value["text"].as_str()), (&false.into(), text), "{value}");
        assert!(value["error"].as_str().expect("text").starts_with(error), "{value}");
    }

    let run = home.ours(&["--json"]);
    // /tmp/uml may hold instances of others.
    let entry = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .find(|entry| entry["umid"] == "box")
        .expect("listed");
    assert_eq!(entry["state"], "running");
    assert_eq!(entry["pid"], std::process::id());
    assert_eq!(entry["socket"], instance.socket.display().to_string());
}

#[test]
fn the_list_tells_running_from_dead_instances() {
    let home = Home::new();
    let _instance = home.start("alive");
    let dead = home.path().join(".uml/crashed");
    fs::create_dir_all(&dead).expect("mkdir");
    drop(UnixDatagram::bind(dead.join("mconsole")).expect("socket without listener"));
    let run = home.ours(&[]);
    assert_eq!(run.status, Some(0));
    let state = |umid: &str| {
        let line = run.stdout.lines().find(|line| line.starts_with(umid)).expect("listed");
        line.split_whitespace().nth(2).expect("state").to_owned()
    };
    assert_eq!((state("alive").as_str(), state("crashed").as_str()), ("running", "dead"));
}

#[test]
fn failures_are_explained_and_end_in_time() {
    let home = Home::new();
    let _instance = home.start("box");
    let run = home.ours(&["nobody", "version"]);
    assert_eq!((run.status, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("no instance \"nobody\""), "{run:?}");
    assert!(run.stderr.contains(".uml/nobody/mconsole: No such file or directory"), "{run:?}");

    for (command, stdout, says) in [
        ("silence", "", "no answer from "),
        ("unfinished", "part\n", "stopped after 4 bytes, and nothing more came within 0.2 s"),
    ] {
        let run = home.ours(&["--timeout=0.2", "box", command]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(124), stdout), "{command}");
        assert!(run.stderr.contains(says), "{run:?}");
    }
    let run = home.ours(&["box", "garbage"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("reply of 2 bytes is too short"), "{run:?}");

    let run = home.ours(&["box", &"x".repeat(512)]);
    assert!(run.stderr.contains("command of 512 bytes is too long"), "{run:?}");

    let dead = home.path().join(".uml/crashed");
    fs::create_dir_all(&dead).expect("mkdir");
    drop(UnixDatagram::bind(dead.join("mconsole")).expect("socket without listener"));
    let run = home.ours(&["crashed", "version"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("nobody listens on "), "{run:?}");
}

#[test]
fn int_signals_the_instance() {
    use std::os::unix::process::ExitStatusExt;
    let home = Home::new();
    let _instance = home.start("box");
    // Waits for its standard input, which this test keeps open, until the signal.
    let mut victim = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat(1)");
    let pid_file = home.path().join(".uml/box/pid");
    fs::write(&pid_file, format!("{}\n", victim.id())).expect("pid");
    assert_eq!(home.ours(&["box", "int"]), ok(""));
    let status = victim.wait().expect("wait");
    assert_eq!(status.signal(), Some(2));
    fs::remove_file(pid_file).expect("remove");
    let expected = "Cannot determine the PID of your UML session, not sending signal.\n";
    assert_eq!(home.ours(&["box", "int"]), ok(expected));
}

#[test]
fn notifications_are_printed() {
    use std::io::{BufRead, BufReader};
    use uml_formats::mconsole::{Notification, NotificationKind};
    let home = Home::new();
    let path = home.path().join("events");
    // Left behind by a listener that is gone.
    drop(UnixDatagram::bind(&path).expect("stale"));
    let mut child = Command::new(CLIENT)
        .args(["--json", "--notify"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("client");
    let kernel = UnixDatagram::unbound().expect("socket");
    let panic = Notification { kind: NotificationKind::Panic, payload: b"oops\0".to_vec() };
    // The client needs a moment to bind; until then the name refuses.
    while kernel.send_to(&panic.encode(), &path).is_err() {
        std::thread::yield_now();
    }
    let mut lines = BufReader::new(child.stdout.take().expect("pipe")).lines();
    let line = lines.next().expect("a line").expect("text");
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&value["notification"], &value["text"]), (&"panic".into(), &"oops".into()));
    kernel.send_to(b"junk", &path).expect("send");
    let line = lines.next().expect("a line").expect("text");
    assert!(line.contains("notification of 4 bytes is too short"), "{line}");
    let run = home.ours(&["--notify", &path.display().to_string()]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("is in use"), "{run:?}");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Our client and the classic one must look alike to a script.
#[test]
fn the_classic_client_prints_the_same() {
    let Some(stock) = stock() else { return };
    let home = Home::new();
    let instance = home.start("box");
    let commands: [&[&str]; 16] = [
        &["version"],
        &["help"],
        &["config", "ubd0"],
        &["config", "ubd3=cow,base"],
        &["remove", "ubd0"],
        &["remove", "ubd9"],
        &["proc", "long"],
        &["proc", "missing"],
        &["sysrq", "h"],
        &["stop"],
        &["go"],
        &["log", "hi"],
        &["nonsense"],
        &["mconsole-version"],
        &["quit"],
        &["switch", "box"],
    ];
    for command in commands {
        let arguments = [&["box"], command].concat();
        let ours = home.ours(&arguments);
        let our_requests: Vec<String> = instance.requests.try_iter().collect();
        let theirs = home.run(&stock, &arguments, "");
        let their_requests: Vec<String> = instance.requests.try_iter().collect();
        assert_eq!(ours, theirs, "{command:?}");
        assert_eq!(our_requests, their_requests, "{command:?}");
    }
}
