//! The pages in man/ are those the program prints. `UPDATE=1 cargo test -p umld --test manual` writes them.

mod common;
use common::World;

#[test]
fn the_manual_pages_are_up_to_date() {
    let w = World::new();
    for page in ["umld.1", "vm.toml.5"] {
        let text = w.run(&["manual", page]).ok();
        // A request that became text.
        for request in [".PP", ".TP", ".SH", ".nf"] {
            assert!(!text.contains(&format!("\\&{request}")), "{page} shows {request}");
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../man").join(page);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "man/{page} is not what `umld manual {page}` prints; run the test with UPDATE=1"
        );
    }
}

#[test]
fn every_key_says_its_default_or_that_it_is_required() {
    let w = World::new();
    let v = w.json(&["schema"]);
    let mut checked = 0;
    for (name, def) in v["$defs"].as_object().unwrap() {
        for (key, p) in def["properties"].as_object().into_iter().flatten() {
            let text = p["description"].as_str().unwrap_or_default();
            let says = ["Default:", "Required", "Either"].iter().any(|w| text.contains(w));
            assert!(says, "{name}.{key}: {text:?}");
            checked += 1;
        }
    }
    assert!(checked > 40);
}

#[test]
fn completions_for_every_shell_and_the_examples_are_right() {
    let w = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(w.run(&["completions", shell]).ok().contains("umld"));
    }
    let shell = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shell.toml");
    w.run(&["check", shell.to_str().unwrap()]).ok();
}
