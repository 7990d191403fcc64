use proptest::prelude::*;

use super::*;
use crate::termios::NCCS;

fn standard() -> LineDiscipline {
    LineDiscipline::new(Termios::standard())
}

fn with(f: impl FnOnce(&mut Termios)) -> LineDiscipline {
    let mut t = Termios::standard();
    f(&mut t);
    LineDiscipline::new(t)
}

/// Feeds `input` and returns the echo.
fn feed(d: &mut LineDiscipline, input: &[u8]) -> String {
    let mut fx = Effects::new(1 << 16);
    assert_eq!(d.receive(input, &mut fx), input.len());
    String::from_utf8_lossy(&fx.echo).into_owned()
}

fn line(d: &mut LineDiscipline) -> Option<String> {
    d.read(4096).map(|l| String::from_utf8_lossy(&l).into_owned())
}

#[test]
fn a_line_is_echoed_and_read_whole() {
    let mut d = standard();
    assert_eq!(feed(&mut d, b"ls"), "ls");
    assert_eq!(line(&mut d), None);
    assert_eq!(feed(&mut d, b"\rdate\r"), "\r\ndate\r\n");
    assert_eq!(d.available(), 8);
    assert_eq!(line(&mut d).as_deref(), Some("ls\n"));
    assert_eq!(d.read(2), Some(b"da".to_vec()));
    assert_eq!(line(&mut d).as_deref(), Some("te\n"));
    assert_eq!(line(&mut d), None);
}

#[test]
fn end_of_file_is_an_empty_read_and_comes_once() {
    let mut d = standard();
    feed(&mut d, b"\x04");
    assert_eq!(line(&mut d).as_deref(), Some(""));
    assert_eq!(line(&mut d), None);
    feed(&mut d, b"abc\x04x\n");
    // A read of exactly the line's length takes the end of file along.
    assert_eq!(d.read(3), Some(b"abc".to_vec()));
    assert_eq!(line(&mut d).as_deref(), Some("x\n"));
}

#[test]
fn erasing_rubs_out_what_was_shown() {
    let mut d = standard();
    assert_eq!(feed(&mut d, b"ab\x7f"), "ab\x08 \x08");
    assert_eq!(feed(&mut d, b"\x01\x7f"), "^A\x08 \x08\x08 \x08");
    assert_eq!(feed(&mut d, b"\tb\x7f\x7f"), "\tb\x08 \x08\x08\x08\x08\x08\x08\x08\x08");
    assert_eq!(feed(&mut d, b"\x7f\x7f\x7f"), "\x08 \x08");
    feed(&mut d, b"one two_3 \x17");
    feed(&mut d, b"\n");
    assert_eq!(line(&mut d).as_deref(), Some("one \n"));
    assert_eq!(feed(&mut d, b"xy\x15"), "xy\x08 \x08\x08 \x08");
}

#[test]
fn utf8_characters_are_erased_as_one() {
    let mut d = with(|t| t.iflag |= libc::IUTF8);
    assert_eq!(feed(&mut d, "aé€\x7f\x7f".as_bytes()), "aé€\x08 \x08\x08 \x08");
    feed(&mut d, b"\n");
    assert_eq!(line(&mut d).as_deref(), Some("a\n"));
    // Continuation bytes alone are left as they are.
    feed(&mut d, b"\x80\x80\x7f\n");
    assert_eq!(d.read(10), Some(b"\x80\x80\n".to_vec()));
}

#[test]
fn kill_without_echoke_starts_a_new_line() {
    let mut d = with(|t| t.lflag &= !libc::ECHOKE);
    assert_eq!(feed(&mut d, b"ab\x15c\n"), "ab^U\r\nc\r\n");
    assert_eq!(line(&mut d).as_deref(), Some("c\n"));
    let mut d = with(|t| t.lflag &= !(libc::ECHOKE | libc::ECHOK));
    assert_eq!(feed(&mut d, b"ab\x15"), "ab^U");
    let mut d = with(|t| t.lflag &= !libc::ECHO);
    assert_eq!(feed(&mut d, b"ab\x15c\n"), "");
    assert_eq!(line(&mut d).as_deref(), Some("c\n"));
}

#[test]
fn printer_erasure_brackets_what_is_gone() {
    let mut d = with(|t| t.lflag |= libc::ECHOPRT);
    assert_eq!(feed(&mut d, b"abc\x7f\x7fd"), "abc\\cb/d");
    let mut d = with(|t| t.lflag &= !libc::ECHOE);
    assert_eq!(feed(&mut d, b"ab\x7f"), "ab^?");
}

#[test]
fn lnext_quotes_and_reprint_shows() {
    let mut d = standard();
    assert_eq!(feed(&mut d, b"a\x16\x03b"), "a^\x08^Cb");
    assert_eq!(feed(&mut d, b"\x12"), "^R\r\na^Cb");
    assert_eq!(feed(&mut d, b"\x16\n\n"), "^\x08^J\r\n");
    assert_eq!(d.read(10), Some(b"a\x03b\n\n".to_vec()));
}

#[test]
fn extra_line_ends() {
    let mut d = with(|t| {
        t.cc[libc::VEOL] = b';';
        t.cc[libc::VEOL2] = b'|';
    });
    feed(&mut d, b"a;b|c\n");
    assert_eq!(line(&mut d).as_deref(), Some("a;"));
    assert_eq!(line(&mut d).as_deref(), Some("b|"));
    assert_eq!(line(&mut d).as_deref(), Some("c\n"));
}

#[test]
fn signal_characters_flush_unless_noflsh() {
    let mut d = standard();
    feed(&mut d, b"x\ny");
    let mut fx = Effects::new(100);
    d.receive(b"z\x03", &mut fx);
    assert_eq!(fx.signals().collect::<Vec<_>>(), [KeySignal::Interrupt]);
    assert_eq!(fx.echo, b"^C");
    assert!(fx.flush_output && fx.flushed_input);
    assert_eq!(line(&mut d), None);

    let mut d = with(|t| t.lflag |= libc::NOFLSH);
    let mut fx = Effects::new(100);
    d.receive(b"x\n\x1c\x1ay\n", &mut fx);
    assert_eq!(
        fx.signals().map(KeySignal::signo).collect::<Vec<_>>(),
        [libc::SIGQUIT, libc::SIGTSTP]
    );
    assert!(!fx.flush_output);
    assert_eq!(line(&mut d).as_deref(), Some("x\n"));
    assert_eq!(line(&mut d).as_deref(), Some("y\n"));

    let mut d = with(|t| t.lflag &= !libc::ISIG);
    feed(&mut d, b"\x03\n");
    assert_eq!(line(&mut d).as_deref(), Some("\x03\n"));
}

#[test]
fn flow_control_characters() {
    let mut d = standard();
    feed(&mut d, b"\x13");
    assert!(d.stopped());
    feed(&mut d, b"a");
    assert!(d.stopped());
    feed(&mut d, b"\x11");
    assert!(!d.stopped());
    let mut d = with(|t| t.iflag |= libc::IXANY);
    feed(&mut d, b"\x13a");
    assert!(!d.stopped());
    feed(&mut d, b"\x13");
    let mut t = *d.termios();
    t.iflag &= !libc::IXON;
    assert!(d.set_termios(t));
    assert!(!d.stopped());
    feed(&mut d, b"\x13\n");
    assert_eq!(line(&mut d).as_deref(), Some("a\x13\n"));
}

#[test]
fn input_mapping() {
    let mut d = with(|t| t.iflag = libc::INLCR);
    feed(&mut d, b"a\nb\r");
    assert_eq!(line(&mut d), None);
    let mut d = with(|t| t.iflag = libc::IGNCR);
    feed(&mut d, b"a\rb\n");
    assert_eq!(line(&mut d).as_deref(), Some("ab\n"));
    let mut d = with(|t| t.iflag |= libc::ISTRIP | libc::IUCLC);
    feed(&mut d, b"\xc1B\n");
    assert_eq!(line(&mut d).as_deref(), Some("ab\n"));
    let mut d = with(|t| t.iflag |= libc::PARMRK | libc::INPCK);
    let mut fx = Effects::new(100);
    d.receive(b"\xff", &mut fx);
    d.receive_break(&mut fx);
    d.receive_damaged(b'x', &mut fx);
    d.receive(b"\n", &mut fx);
    assert_eq!(d.read(100), Some(b"\xff\xff\xff\0\0\xff\0x\n".to_vec()));
}

#[test]
fn breaks() {
    let mut fx = Effects::new(100);
    let mut d = with(|t| t.iflag |= libc::IGNBRK | libc::BRKINT);
    d.receive_break(&mut fx);
    assert!(!fx.has_signals());
    let mut d = with(|t| t.iflag |= libc::BRKINT);
    d.receive_break(&mut fx);
    assert!(fx.has_signals());
    let mut d = with(|t| t.lflag &= !libc::ICANON);
    d.receive_break(&mut fx);
    assert_eq!(d.read(9), Some(vec![0]));
}

#[test]
fn long_lines_are_cut_and_still_end() {
    let mut d = standard();
    feed(&mut d, &[b'x'; 5000]);
    assert!(!d.full());
    feed(&mut d, b"\n");
    assert_eq!(d.available(), INPUT_LIMIT);
    assert!(d.full());
    let mut fx = Effects::new(10);
    assert_eq!(d.receive(b"next\n", &mut fx), 0);
    let l = d.read(10_000).unwrap_or_default();
    assert_eq!((l.len(), l.last()), (INPUT_LIMIT, Some(&b'\n')));
    assert_eq!(d.receive(b"next\n", &mut fx), 5);
}

#[test]
fn end_of_file_characters_are_bounded() {
    let mut d = standard();
    let mut fx = Effects::new(10);
    assert_eq!(d.receive(&[4; 10_000], &mut fx), INPUT_LIMIT - 1);
}

#[test]
fn mode_changes_keep_what_was_typed() {
    let mut d = standard();
    feed(&mut d, b"ab\ncd");
    let canon = *d.termios();
    let mut raw = canon;
    raw.lflag &= !libc::ICANON;
    d.set_termios(raw);
    assert_eq!(d.read(4), Some(b"ab\nc".to_vec()));
    d.set_termios(canon);
    assert_eq!(line(&mut d).as_deref(), Some("d"));
    assert_eq!(line(&mut d), None);
}

#[test]
fn poll_needs_vmin_bytes_only_without_vtime() {
    let mut d = with(|t| {
        t.lflag &= !(libc::ICANON | libc::ECHO);
        t.cc[libc::VMIN] = 3;
    });
    feed(&mut d, b"ab");
    assert!(!d.poll_readable());
    assert!(d.has_input());
    feed(&mut d, b"c");
    assert!(d.poll_readable());
    let mut t = *d.termios();
    t.cc[libc::VTIME] = 1;
    d.set_termios(t);
    d.read(2);
    assert!(d.poll_readable());
}

#[test]
fn output_processing() {
    let run = |oflag: u32, src: &[u8]| {
        let mut d = with(|t| t.oflag = oflag);
        let mut out = Vec::new();
        assert_eq!(d.output(src, 1000, &mut out), src.len());
        String::from_utf8_lossy(&out).into_owned()
    };
    use libc::*;
    assert_eq!(run(0, b"a\n\t"), "a\n\t");
    assert_eq!(run(OPOST, b"a\n\t"), "a\n\t");
    assert_eq!(run(OPOST | ONLCR, b"a\nb"), "a\r\nb");
    assert_eq!(run(OPOST | OCRNL, b"a\rb"), "a\nb");
    assert_eq!(run(OPOST | ONOCR, b"\ra\r\r"), "a\r");
    assert_eq!(run(OPOST | XTABS, b"\tab\tc"), "        ab      c");
    assert_eq!(run(OPOST | XTABS, b"ab\n\tc"), "ab\n      c");
    assert_eq!(run(OPOST | XTABS | ONLRET, b"ab\n\tc"), "ab\n        c");
    assert_eq!(run(OPOST | OLCUC, b"aBc"), "ABC");
}

#[test]
fn output_never_exceeds_the_room_and_resumes() {
    let mut d = with(|t| t.oflag = libc::OPOST | libc::ONLCR | libc::XTABS);
    let src = b"a\nb\tc\n";
    let mut out = Vec::new();
    assert_eq!(d.output(src, 2, &mut out), 1);
    assert_eq!(d.output(&src[1..], 3, &mut out), 2);
    assert_eq!(d.output(&src[3..], 6, &mut out), 0);
    assert_eq!(d.output(&src[3..], 7, &mut out), 1);
    assert_eq!(out, b"a\r\nb       ");
}

/// The visible text of one screen line under echo.
#[derive(Default)]
struct Screen {
    cells: Vec<u8>,
    cursor: usize,
}

impl Screen {
    fn show(&mut self, bytes: &[u8]) {
        for &b in bytes {
            match b {
                0x08 => self.cursor = self.cursor.saturating_sub(1),
                b'\t' => self.cursor = (self.cursor / 8 + 1) * 8,
                _ => {
                    if self.cells.len() <= self.cursor {
                        self.cells.resize(self.cursor + 1, b' ');
                    }
                    self.cells[self.cursor] = b;
                    self.cursor += 1;
                }
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.cells).trim_end().to_owned()
    }
}

/// Reference model of canonical editing with standard settings.
fn model(input: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut lines, mut cur) = (Vec::new(), Vec::<u8>::new());
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let mut quoted = false;
    for &c in input {
        if std::mem::take(&mut quoted) {
            cur.push(c);
            continue;
        }
        match c {
            0x16 => quoted = true,
            0x7f => drop(cur.pop()),
            0x15 => cur.clear(),
            0x17 => {
                while cur.last().is_some_and(|c| !word(*c)) {
                    cur.pop();
                }
                while cur.last().is_some_and(|c| word(*c)) {
                    cur.pop();
                }
            }
            b'\r' | b'\n' => {
                cur.push(b'\n');
                lines.push(std::mem::take(&mut cur));
            }
            0x04 => lines.push(std::mem::take(&mut cur)),
            _ => cur.push(c),
        }
    }
    (lines, cur)
}

fn typed() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        8 => 0x20u8..0x7f,
        2 => prop_oneof![Just(0x7fu8), Just(0x15), Just(0x17), Just(b'\t')],
        1 => prop_oneof![Just(0x16u8), Just(0x04), Just(b'\r'), Just(b'\n'), Just(0x01)],
    ];
    prop::collection::vec(key, 0..300)
}

fn any_termios() -> impl Strategy<Value = Termios> {
    (any::<u32>(), any::<u32>(), any::<u32>(), prop::array::uniform19(any::<u8>())).prop_map(
        |(iflag, oflag, lflag, cc)| {
            let cc: [u8; NCCS] = cc;
            Termios { iflag, oflag, lflag, cc, ..Termios::standard() }
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Receive(Vec<u8>),
    Read(usize),
    Output(Vec<u8>, usize),
    Settings(Termios),
    Break,
    Damaged(u8),
    Flush,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Op::Receive),
        4 => (0usize..5000).prop_map(Op::Read),
        2 => (prop::collection::vec(any::<u8>(), 0..200), 0usize..300)
            .prop_map(|(d, n)| Op::Output(d, n)),
        2 => any_termios().prop_map(Op::Settings),
        1 => Just(Op::Break),
        1 => any::<u8>().prop_map(Op::Damaged),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    #[test]
    fn raw_mode_passes_every_byte(input in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut d = with(|t| { t.lflag = 0; t.iflag = 0; t.oflag = 0; });
        let mut fx = Effects::new(100);
        prop_assert_eq!(d.receive(&input, &mut fx), input.len());
        prop_assert!(fx.echo.is_empty());
        prop_assert_eq!(d.read(4096).unwrap_or_default(), input);
    }

    #[test]
    fn canonical_lines_match_the_model(input in typed()) {
        let mut d = standard();
        let mut fx = Effects::new(1 << 20);
        prop_assert_eq!(d.receive(&input, &mut fx), input.len());
        let (lines, _) = model(&input);
        for l in lines {
            prop_assert_eq!(d.read(4096), Some(l));
        }
        prop_assert_eq!(d.read(4096), None);
    }

    #[test]
    fn small_reads_and_chunks_change_nothing(
        input in typed(), chunk in 1usize..20, take in 1usize..20,
    ) {
        let mut d = standard();
        let mut fx = Effects::new(1 << 20);
        let mut got = Vec::new();
        for c in input.chunks(chunk) {
            prop_assert_eq!(d.receive(c, &mut fx), c.len());
            while let Some(l) = d.read(take) {
                got.extend(l);
            }
        }
        let want: Vec<u8> = model(&input).0.concat();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn the_screen_shows_the_edited_line(prompt in "[a-z\t]{0,12}", input in typed()) {
        // Quoting leaves its caret on the screen under a tab; line ends start another line.
        let keys: Vec<u8> =
            input.into_iter().filter(|c| ![0x16, 0x04, b'\r', b'\n'].contains(c)).collect();
        let mut d = standard();
        let mut screen = Screen::default();
        let mut out = Vec::new();
        d.output(prompt.as_bytes(), 1000, &mut out);
        screen.show(&out);
        let mut fx = Effects::new(1 << 20);
        d.receive(&keys, &mut fx);
        screen.show(&fx.echo);
        let mut want = Screen::default();
        want.show(prompt.as_bytes());
        for c in model(&keys).1 {
            if c == 1 { want.show(b"^A") } else { want.show(&[c]) }
        }
        prop_assert_eq!(screen.text(), want.text());
        prop_assert_eq!(screen.cursor, want.cursor);
        prop_assert_eq!(d.column() as usize, want.cursor);
    }

    #[test]
    fn nothing_breaks_the_bounds(ops in prop::collection::vec(any_op(), 0..40)) {
        let mut d = standard();
        for op in ops {
            match op {
                Op::Receive(data) => {
                    let mut fx = Effects::new(500);
                    let n = d.receive(&data, &mut fx);
                    prop_assert!(n <= data.len());
                    prop_assert!(n == data.len() || d.full());
                    prop_assert!(fx.echo.len() <= 500);
                }
                Op::Read(max) => {
                    let available = d.available();
                    let had = d.has_input();
                    match d.read(max) {
                        Some(data) => {
                            prop_assert!(had && data.len() <= max);
                            prop_assert_eq!(d.available(), available - data.len());
                        }
                        None => prop_assert!(!had),
                    }
                }
                Op::Output(data, room) => {
                    let mut out = Vec::new();
                    prop_assert!(d.output(&data, room, &mut out) <= data.len());
                    prop_assert!(out.len() <= room);
                }
                Op::Settings(t) => drop(d.set_termios(t)),
                Op::Break => d.receive_break(&mut Effects::new(10)),
                Op::Damaged(c) => d.receive_damaged(c, &mut Effects::new(10)),
                Op::Flush => {
                    d.flush_input();
                    prop_assert!(!d.has_input());
                }
            }
            prop_assert!(d.used() <= INPUT_LIMIT);
            prop_assert!(!d.full() || d.has_input());
        }
    }
}
