//! One caller: request, program, end.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_base::pr_warn;
use uml_core::exec::{Program, args_limit};
use uml_core::file::File;
use uml_core::kernel::Kernel;
use uml_core::signal::{SigInfo, send_to_group};
use uml_core::task::{Cred, Task, spawn};
use uml_core::vfs::{self, DirFd, lookup, walk};
use uml_formats::door::{Frame, Request};
use uml_host::fdpass;

use super::terminal::Terminal;
use crate::stdio;

/// Where programs are looked up when the caller gives no PATH.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Serves a caller until its program ended or it went away.
pub fn serve(kernel: &Arc<Kernel>, mut stream: UnixStream) {
    let _ = stream.set_read_timeout(Some(super::PATIENCE));
    let (request, fds) = match receive(&stream) {
        Ok(r) => r,
        Err(e) => return pr_warn!("door: {e}"),
    };
    let _ = stream.set_read_timeout(None);
    let last = match run(kernel, &request, fds, &stream) {
        Ok(status) => Frame::Exit(status),
        Err((e, what)) => Frame::Failed(e.raw(), what),
    };
    // The caller may be gone.
    let _ = stream.write_all(&last.encode());
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn receive(stream: &UnixStream) -> io::Result<(Request, Vec<OwnedFd>)> {
    let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut head = [0; Request::HEAD];
    let (n, fds) = fdpass::receive(stream, &mut head)?;
    let mut stream = stream;
    stream.read_exact(head.get_mut(n..).unwrap_or_default())?;
    let mut body = Vec::new();
    let len = Request::body_len(&head).map_err(bad)?;
    stream.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let request = Request::decode(&body).map_err(bad)?;
    if request.terminal.is_none() && fds.len() != 3 {
        return Err(bad("expected three descriptors or a terminal"));
    }
    Ok((request, fds))
}

fn credentials(r: &Request) -> Cred {
    let mut c = Cred::root();
    (c.uid, c.euid, c.suid, c.fsuid) = (r.uid, r.uid, r.uid, r.uid);
    (c.gid, c.egid, c.sgid, c.fsgid) = (r.gid, r.gid, r.gid, r.gid);
    if r.uid != 0 {
        (c.cap_effective, c.cap_permitted) = (0, 0);
    }
    c
}

type Refused = (Errno, String);

fn run(
    kernel: &Arc<Kernel>,
    r: &Request,
    fds: Vec<OwnedFd>,
    stream: &UnixStream,
) -> std::result::Result<i32, Refused> {
    let because = |what: &str| {
        let what = what.to_owned();
        move |e: Errno| (e, what)
    };
    let task = spawn::create(kernel, credentials(r)).map_err(because("no process"))?;
    // From here on the process must be started or discarded.
    let prepared = prepare(&task, r, fds);
    let (program, terminal) = prepared.inspect_err(|_| spawn::discard(&task))?;
    let waiter = Task::of_kernel(kernel, "door", task.fs().duplicate());
    let name = String::from_utf8_lossy(&r.args[0]).into_owned();
    spawn::start(&task, program).map_err(because(&name))?;
    let over = Arc::new(AtomicBool::new(false));
    let listener = listen(&task, terminal.clone(), stream, &over);
    let printer = terminal.as_ref().map(|t| t.print(stream));
    let status = spawn::wait(&waiter, &task).map_err(because("the machine ends"))?;
    over.store(true, Ordering::SeqCst);
    if let Some(t) = &terminal {
        t.finish();
    }
    if let Some(Ok(p)) = printer {
        let _ = p.join();
    }
    // Ends the listener's read.
    let _ = stream.shutdown(std::net::Shutdown::Read);
    if let Ok(l) = listener {
        let _ = l.join();
    }
    Ok(status)
}

fn prepare(
    task: &Arc<Task>,
    r: &Request,
    fds: Vec<OwnedFd>,
) -> std::result::Result<(Program, Option<Arc<Terminal>>), Refused> {
    let named = |what: &[u8], e: Errno| (e, String::from_utf8_lossy(what).into_owned());
    if !r.cwd.is_empty() {
        let place = lookup(task, &DirFd::Cwd, &r.cwd, walk::FOLLOW | walk::DIRECTORY)
            .map_err(|e| named(&r.cwd, e))?;
        task.fs().set_cwd(place);
    }
    let bytes: usize = r.args.iter().chain(&r.env).map(|w| w.len() + 1).sum();
    if bytes as u64 > args_limit(task) {
        return Err((E2BIG, "arguments and environment".into()));
    }
    let terminal = match r.terminal {
        Some((rows, cols)) => {
            let t = Terminal::open(task, rows, cols).map_err(|e| named(b"terminal", e))?;
            Some(Arc::new(t))
        }
        None => {
            for (fd, flags) in fds.into_iter().zip([libc::O_RDONLY, libc::O_WRONLY, libc::O_WRONLY])
            {
                let file = stdio::from_host(task, fd, flags);
                task.install_fd(file, false).map_err(|e| named(b"standard streams", e))?;
            }
            None
        }
    };
    let (file, filename) = find(task, r).map_err(|e| named(&r.args[0], e))?;
    let program =
        Program { file, filename, args: r.args.clone(), env: r.env.clone(), inaccessible: false };
    Ok((program, terminal))
}

/// The program, looked up as execvp(3) does.
fn find(task: &Arc<Task>, r: &Request) -> Result<(Arc<File>, Vec<u8>)> {
    let name = &r.args[0];
    if name.contains(&b'/') {
        return Ok((vfs::open_exec(task, name)?, name.clone()));
    }
    let path = r.env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(PATH);
    let mut worst = ENOENT;
    for dir in path.split(|b| *b == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let full = [dir, b"/", name].concat();
        match vfs::open_exec(task, &full) {
            Ok(f) => return Ok((f, full)),
            Err(EACCES) => worst = EACCES,
            Err(ENOENT | ENOTDIR) => {}
            Err(e) => return Err(e),
        }
    }
    Err(worst)
}

/// Takes what the caller sends until the program ended. A caller that goes away hangs up: SIGHUP.
fn listen(
    task: &Arc<Task>,
    terminal: Option<Arc<Terminal>>,
    stream: &UnixStream,
    over: &Arc<AtomicBool>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let mut stream = stream.try_clone()?;
    let (task, over) = (task.clone(), over.clone());
    std::thread::Builder::new().name("door".into()).spawn(move || {
        let kernel = task.kernel();
        let mut buffer = Vec::new();
        let mut chunk = [0; 16384];
        'read: loop {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            loop {
                match Frame::decode(&mut buffer) {
                    Ok(Some(Frame::Data(d))) => {
                        if let Some(t) = &terminal {
                            t.type_in(&d);
                        }
                    }
                    Ok(Some(Frame::Resize(rows, cols))) => {
                        if let Some(t) = &terminal {
                            t.resize(rows, cols);
                        }
                    }
                    Ok(Some(Frame::Signal(n))) if (1..=64).contains(&n) => {
                        send_to_group(&kernel, task.process.pid, SigInfo::kernel(n));
                    }
                    Ok(Some(_)) | Err(_) => break 'read,
                    Ok(None) => break,
                }
            }
        }
        if !over.load(Ordering::SeqCst) {
            send_to_group(&kernel, task.process.pid, SigInfo::kernel(libc::SIGHUP));
        }
    })
}
