//! Threads that wait for what io_submit(2) started.
//!
//! They come with the requests, at most [`MOST`] of them: what they wait for is the host's disk, which has many requests
//! in flight only if as many threads wait. They go when there has been nothing to do for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uml_core::cgroup::io::on_behalf;
use uml_core::task::Task;
use uml_core::user::UserIo;

use super::{Context, Request, end_orphans};

/// Threads there may be: the depth that benchmarks of disks use, and more than a disk of the host makes use of.
const MOST: usize = 32;
/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(3);

/// A request in progress.
struct Job {
    task: Arc<Task>,
    context: Arc<Context>,
    request: Request,
    /// Address of the request.
    object: u64,
    /// `None` for fsync.
    data: Option<UserIo>,
}

#[derive(Default)]
struct Crew {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static CREW: Mutex<Crew> = Mutex::new(Crew { jobs: VecDeque::new(), threads: 0, idle: 0 });
static WORK: Condvar = Condvar::new();

fn crew() -> MutexGuard<'static, Crew> {
    CREW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a request to a worker. Its event comes when it is done.
pub(super) fn hand_over(task: &Arc<Task>, context: &Arc<Context>, request: Request, object: u64) {
    let data = match request.transfers().then(|| request.buffers(task)).transpose() {
        Ok(d) => d,
        Err(e) => return context.complete(request.event(object, Err(e)), request.notify.as_ref()),
    };
    *context.held() += 1;
    context.finished.lock().coming += 1;
    let job = Job { task: task.clone(), context: context.clone(), request, object, data };
    let mut c = crew();
    c.jobs.push_back(job);
    let hire = c.idle < c.jobs.len() && c.threads < MOST;
    if hire {
        c.threads += 1;
    }
    drop(c);
    if !hire {
        return WORK.notify_one();
    }
    let thread = std::thread::Builder::new().name("aio".into()).spawn(work);
    if thread.is_err() {
        let mut c = crew();
        c.threads -= 1;
        // Somebody else gets to it, or nobody is there but this thread.
        let own = if c.threads == 0 { c.jobs.pop_back() } else { None };
        drop(c);
        if let Some(job) = own {
            let kernel = task.kernel();
            let mut job = Some(job);
            kernel.blocking(&mut || {
                if let Some(j) = job.take() {
                    j.run();
                }
            });
        }
    }
}

fn work() {
    let mut c = crew();
    loop {
        if let Some(job) = c.jobs.pop_front() {
            drop(c);
            job.run();
            c = crew();
            continue;
        }
        c.idle += 1;
        let (next, waited) = WORK.wait_timeout(c, IDLE).unwrap_or_else(PoisonError::into_inner);
        c = next;
        c.idle -= 1;
        if waited.timed_out() && c.jobs.is_empty() {
            c.threads -= 1;
            return;
        }
    }
}

impl Job {
    fn run(self) {
        let Job { task, context, request, object, data } = self;
        let result = on_behalf(&task, || request.finish(&task, data));
        let event = request.event(object, result);
        context.complete_coming(event, request.notify.as_ref());
        // Files and memory are let go before anybody who waits for this goes on.
        drop((request, task));
        let last = {
            let mut n = context.held();
            *n -= 1;
            *n == 0
        };
        if last {
            context.let_go.notify_all();
            if context.mm.strong_count() == 0 {
                // execve(2) came meanwhile, and the request had the last hold on the memory before it.
                end_orphans();
            }
        }
    }
}
