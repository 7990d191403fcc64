//! A stopped machine's clock. In a test program of its own, because the clock is the process's.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use uml_core::file::fdtable::FdTable;
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::{Cred, FsContext, Process, Task, TaskInit, WaitKind, rlimit};
use uml_core::time::TimerTarget;
use uml_core::vfs::{self, MountNs, anon};

fn task(kernel: &Arc<Kernel>) -> Arc<Task> {
    let place = anon::path(vfs::AnonKind::Other("[test]"), &Cred::root());
    let process = Process::new(2, SigHand::default(), rlimit::Rlimits::initial(64), 0);
    let t = Task::new(
        kernel,
        TaskInit {
            tid: 2,
            process,
            comm: *b"sleeper\0\0\0\0\0\0\0\0\0",
            cred: Arc::new(Cred::root()),
            mm: None,
            files: Arc::new(FdTable::new()),
            fs: Arc::new(FsContext::new(place.clone(), MountNs::new(0, place.mnt))),
            blocked: 0,
        },
    );
    kernel.tree.write().add_process(&t, 0, 2, 2);
    t
}

struct Tell(std::sync::Mutex<std::sync::mpsc::Sender<Duration>>, Arc<Kernel>);

impl TimerTarget for Tell {
    fn expired(&self) {
        let _ = self.0.lock().expect("not poisoned").send(self.1.uptime());
    }
}

#[test]
fn deadlines_and_timers_wait_for_the_machine_to_go_on() {
    const SLEEP: Duration = Duration::from_millis(60);
    let kernel = Kernel::new(64 << 20, 1);
    let t = task(&kernel);
    let (tx, rx) = channel();
    let target: Arc<dyn TimerTarget> = Arc::new(Tell(std::sync::Mutex::new(tx), kernel.clone()));
    let timer = kernel.time.timer(Arc::downgrade(&target));
    let start = uml_base::clock::now();
    let deadline = start + SLEEP;
    timer.set(Some(deadline));
    let sleeper = std::thread::spawn(move || {
        let r = t.sleep(WaitKind::Interruptible, Some(deadline), "test", || None::<()>);
        (r, uml_base::clock::now())
    });
    assert!(kernel.stop_machine());
    assert!(!kernel.stop_machine(), "it is stopped already");
    let stopped_at = kernel.time.monotonic();
    // Far beyond the deadline on the host's clock: nothing may happen.
    assert!(rx.recv_timeout(SLEEP * 4).is_err(), "a timer fired in a stopped machine");
    assert!(!sleeper.is_finished(), "a sleep ended in a stopped machine");
    let drift = kernel.time.monotonic().abs_diff(stopped_at);
    assert!(drift < Duration::from_millis(1), "the clock moved by {drift:?}");
    let jumps = kernel.time.jumps();
    let host = Instant::now();
    assert!(kernel.resume_machine());
    assert!(!kernel.resume_machine(), "it runs already");
    assert_ne!(kernel.time.jumps(), jumps, "CLOCK_REALTIME jumped");
    let (result, woke) = sleeper.join().expect("no panic");
    assert_eq!(result, Ok(None));
    assert!(woke >= deadline, "the sleep was too short");
    let fired = rx.recv().expect("the timer fires in the end");
    assert!(fired >= SLEEP - Duration::from_millis(1), "fired {fired:?} after boot");
    // What was left of the sleep. A busy host may be late, but not by this much.
    assert!(host.elapsed() <= SLEEP * 100);
}
