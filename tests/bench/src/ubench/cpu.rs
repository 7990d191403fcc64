//! Pure computation: what a kernel must not slow down.

use crate::measure::Bench;
use std::hint::black_box;
use std::time::Instant;

fn scalar_work(n: u64) -> u64 {
    let (mut x, mut s) = (88_172_645_463_325_252u64, 0u64);
    for _ in 0..n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        s = s.wrapping_add(x % 1_000_003);
    }
    s
}

const SCALAR: u64 = 20_000_000;

/// Milliseconds for a fixed chain of integer operations.
pub fn scalar(b: &Bench) {
    b.rounds("compute_scalar", "ms", || {
        let t = Instant::now();
        black_box(scalar_work(black_box(SCALAR)));
        Ok(t.elapsed().as_secs_f64() * 1000.0)
    });
}

/// Milliseconds for a fixed number of multiply-adds over arrays that the compiler vectorises (AVX2 where there is one).
pub fn vector(b: &Bench) {
    fn plain(a: &mut [f32], x: &[f32], rounds: usize) {
        for r in 0..rounds {
            let k = 1.0 + r as f32 * 1e-9;
            for (a, x) in a.iter_mut().zip(x) {
                *a = *a * k + *x;
            }
        }
    }
    #[target_feature(enable = "avx2,fma")]
    fn wide(a: &mut [f32], x: &[f32], rounds: usize) {
        for r in 0..rounds {
            let k = 1.0 + r as f32 * 1e-9;
            for (a, x) in a.iter_mut().zip(x) {
                *a = a.mul_add(k, *x);
            }
        }
    }
    let x: Vec<f32> = (0..4096).map(|i| i as f32 * 1e-6).collect();
    let mut a = vec![0f32; 4096];
    b.rounds("compute_vector", "ms", || {
        let t = Instant::now();
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: both features were found on this processor.
            unsafe { wide(&mut a, &x, 100_000) };
        } else {
            plain(&mut a, &x, 100_000);
        }
        black_box(&a);
        Ok(t.elapsed().as_secs_f64() * 1000.0)
    });
}

/// How many times faster two threads do the double of the scalar work than one: 2 where there are two processors.
pub fn two_threads(b: &Bench) {
    b.rounds("compute_two_threads", "x", || {
        let t = Instant::now();
        black_box(scalar_work(black_box(SCALAR)));
        black_box(scalar_work(black_box(SCALAR)));
        let one = t.elapsed().as_secs_f64();
        let t = Instant::now();
        let h: Vec<_> = (0..2)
            .map(|_| std::thread::spawn(|| black_box(scalar_work(black_box(SCALAR)))))
            .collect();
        for h in h {
            h.join().map_err(|_| "a thread failed".to_string())?;
        }
        Ok(one / t.elapsed().as_secs_f64())
    });
}
