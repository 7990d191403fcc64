//! Everything at once: up to 64 guest threads in changing processes mix calls, faults,
//! memory calls, forks, threads, kicks and exits, while host threads kick at random and
//! kill host processes from outside. Every thread checks its registers and vector state in
//! each round.

mod common;
#[path = "common/mayhem.rs"]
mod mayhem;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use mayhem::torture;
use uml_platform::Backend;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn run(b: Backend, kill_from_outside: bool) {
    let k = Kernel::boot(b);
    *k.exec_text.lock().unwrap() = torture().to_vec();
    k.max_tasks.store(64, Ordering::SeqCst);
    k.budget.store(1500, Ordering::SeqCst);
    let stop = Arc::new(AtomicBool::new(false));
    let pest = {
        let (k, stop) = (k.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut seed = 88172645463325252;
            while !stop.load(Ordering::SeqCst) {
                let kicks = k.kicks();
                if !kicks.is_empty() {
                    let victim = &kicks[random(&mut seed) as usize % kicks.len()];
                    victim.kick();
                    let tid = victim.host_tid();
                    if kill_from_outside && random(&mut seed) % 32 == 0 && tid != 0 {
                        // SAFETY: a signal to a child of ours; a thread id names its process.
                        unsafe { libc::kill(tid, libc::SIGKILL) };
                    }
                }
                std::thread::sleep(Duration::from_micros(random(&mut seed) % 500));
            }
        })
    };
    let started = Instant::now();
    for _ in 0..12 {
        k.start(torture());
    }
    k.wait_all(Duration::from_secs(90));
    stop.store(true, Ordering::SeqCst);
    pest.join().unwrap();
    let bad: Vec<i64> = k.statuses().into_iter().filter(|&s| s != 0 && s != DIED).collect();
    assert!(
        bad.is_empty(),
        "failed checks: {bad:?}, exceptions {:?}",
        k.exceptions.lock().unwrap()
    );
    assert!(k.panics.lock().unwrap().is_empty(), "{:?}", k.panics.lock().unwrap());
    let died = k.died.load(Ordering::SeqCst);
    assert!(kill_from_outside || died == 0, "{died} contexts died");
    eprintln!(
        "{} tasks, {} events, {} interruptions, {died} deaths in {:?}",
        k.statuses().len(),
        k.events.load(Ordering::SeqCst),
        k.interrupted.load(Ordering::SeqCst),
        started.elapsed()
    );
    // The machine still works.
    k.budget.store(50, Ordering::SeqCst);
    let id = k.start(torture());
    k.wait(id);
    k.wait_all(Duration::from_secs(90));
    k.platform.shutdown();
}

fn everything_at_once(b: Backend) {
    run(b, false);
}

fn everything_at_once_with_kills(b: Backend) {
    run(b, true);
}

on_each_backend!(everything_at_once, everything_at_once_with_kills,);
