//! Connections one after the other: made, ended by the server, closed.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Makes this program the client: `--connect ADDRESS SECONDS`.
pub const CLIENT: &str = "--connect";
/// Where [`serve`] listens.
pub const PORT: u16 = 5202;
/// Clients at a time.
const CLIENTS: usize = 4;

/// Ends every connection that comes, which leaves the waiting (TIME_WAIT) to this side. The thread stays.
pub fn serve(at: &str) -> Result<(), String> {
    let l = TcpListener::bind((at, PORT)).map_err(|e| format!("{at}:{PORT}: {e}"))?;
    std::thread::spawn(move || l.incoming().for_each(drop));
    Ok(())
}

/// Connects for that long, and says how many connections a second there were.
pub fn client(words: &[String]) -> Result<(), String> {
    let [at, seconds] = words else { return Err(format!("{CLIENT} ADDRESS SECONDS")) };
    let seconds = seconds.parse().map_err(|_| format!("'{seconds}' is no number"))?;
    let (start, length) = (Instant::now(), Duration::from_secs(seconds));
    let one = || -> Result<u64, String> {
        let mut n = 0;
        while start.elapsed() < length {
            let mut s = TcpStream::connect(at).map_err(|e| format!("{at}: {e}"))?;
            s.read(&mut [0]).map_err(|e| format!("{at}: {e}"))?;
            n += 1;
        }
        Ok(n)
    };
    let counts: Result<Vec<u64>, String> = std::thread::scope(|s| {
        let all: Vec<_> = (0..CLIENTS).map(|_| s.spawn(one)).collect();
        let ended = |t: std::thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|_| Err("a client panicked".into()))
        };
        all.into_iter().map(ended).collect()
    });
    println!(
        "connections {:.0}",
        counts?.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What [`client`] said, in thousands.
pub fn read(said: &str) -> Result<f64, String> {
    let n = said.lines().find_map(|l| l.trim().strip_prefix("connections ")?.parse::<f64>().ok());
    n.map(|n| n / 1e3).ok_or(format!("no connections in:\n{said}"))
}
