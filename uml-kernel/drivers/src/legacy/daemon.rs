//! A port of a `uml_switch` (uml_switch(1)): a control connection that is the port's life, and datagrams of one
//! frame each.
//!
//! The port is there from configuration on, as with the stock driver: frames that arrive while the
//! interface is down wait in the socket.
//!
//! A switch that goes away is looked for until it is there again: a thread waits for the end of the control connection and joins
//! anew, by the same data socket, so that the interface notices nothing but a pause. The stock driver does not.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uml_base::{Mutex, Rank, pr_info, pr_warn};
use uml_formats::switch::{ADDRESS_LEN, Address, Request};
use uml_host::netdev::{self, Signal};
use uml_net::wire::ethernet::Mac;

use crate::vector::device::HostSide;
use crate::vector::frame::Encap;
use crate::vector::open::{Endpoint, Failed, failed, plain};

/// A switch answers at once; one that is stopped must not stop the machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to join a switch that went away: at first and at last. Nobody tells when it is back.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A port of a switch.
pub struct SwitchPort(Arc<Port>);

struct Port {
    control: String,
    /// Of the data socket, which stays when the switch does not.
    address: Address,
    data: OwnedFd,
    stream: Mutex<Arc<UnixStream>>,
    /// The port is not wanted any more.
    stop: Signal,
}

impl SwitchPort {
    /// Joins the switch whose control socket is at `control`. The error is a text.
    pub fn join(control: &str) -> Result<SwitchPort, String> {
        let failed = |e: std::io::Error| says(control, "data bind failed", e);
        let address = own_address();
        let data = netdev::open_unix_datagram(&address.0).map_err(failed)?;
        let stream = Mutex::new(Rank::LEAF, Arc::new(join(control, &address, &data)?));
        let stop = Signal::new().map_err(failed)?;
        let port = Arc::new(Port { control: control.to_owned(), address, data, stream, stop });
        let kept = port.clone();
        let thread = std::thread::Builder::new().name("switch port".into());
        thread.spawn(move || kept.keep()).map_err(failed)?;
        Ok(SwitchPort(port))
    }
}

impl Drop for SwitchPort {
    fn drop(&mut self) {
        // Its thread closes the sockets, and with them the port.
        self.0.stop.raise();
    }
}

impl Port {
    fn stream(&self) -> Arc<UnixStream> {
        self.stream.lock().clone()
    }

    /// Joins again unless the switch is there.
    fn rejoin(&self) -> Result<(), String> {
        // The switch says nothing after its answer: what is readable is the end.
        if !uml_host::wait::ready(self.stream().as_fd(), libc::POLLIN) {
            return Ok(());
        }
        // Not under the lock, as the switch may take its time. The older one of two connections ends with its last user.
        let joined = Arc::new(join(&self.control, &self.address, &self.data)?);
        *self.stream.lock() = joined;
        pr_info!("daemon: joined {} again", self.control);
        Ok(())
    }

    /// Waits for the switch's end, and then for its return.
    fn keep(&self) {
        loop {
            let stream = self.stream();
            match netdev::wait(stream.as_fd(), self.stop.fd(), false) {
                Ok((true, _, false)) => {}
                _ => return,
            }
            let mut pause = RETRY;
            let mut told = false;
            while let Err(text) = self.rejoin() {
                if !told {
                    pr_warn!(
                        "daemon: {} is gone; it is joined again when it is back: {text}",
                        self.control
                    );
                    told = true;
                }
                if uml_host::stream::wait_readable(self.stop.fd(), pause) {
                    return;
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

impl HostSide for SwitchPort {
    fn open(&self, _: Mac) -> Result<Endpoint, Failed> {
        if let Err(text) = self.0.rejoin() {
            return failed(text);
        }
        match netdev::duplicate(&self.0.data) {
            Ok(fd) => plain(fd, Encap::None),
            Err(e) => failed(format!("daemon: no descriptor: {e}")),
        }
    }
}

/// An abstract address that nobody else has.
fn own_address() -> Address {
    let mut name = [0; 11];
    // As the stock driver's: three bytes of padding, the process, something that differs.
    name[3..7].copy_from_slice(&std::process::id().to_ne_bytes());
    uml_host::random::fill(&mut name[7..]);
    let mut path = [0; uml_formats::switch::PATH_LEN];
    path[1..12].copy_from_slice(&name);
    Address(path)
}

fn says(control: &str, what: &str, e: std::io::Error) -> String {
    let n = e.raw_os_error().unwrap_or(0);
    format!("daemon_open : {what}, errno = {n} ({control}: {e})")
}

/// Asks the switch for a port that sends to `address`, that of `data`; the connection is the port's life.
fn join(control: &str, address: &Address, data: &OwnedFd) -> Result<UnixStream, String> {
    let says = |what: &str, e: std::io::Error| says(control, what, e);
    let mut stream = netdev::connect_unix_stream(Path::new(control))
        .map_err(|e| says("control connect failed", e))?;
    let request = Request { version: 3, address: *address }.encode();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.write_all(&request))
        .map_err(|e| says("control setup request failed", e))?;
    let mut reply = [0; ADDRESS_LEN];
    stream.read_exact(&mut reply).map_err(|e| says("read of data socket failed", e))?;
    let Some(switch) = Address::decode(&reply) else {
        return Err(format!("daemon_open : {control} answered with no address of a socket"));
    };
    // Connected, the host tells when the switch takes frames again, and nobody else can send any.
    netdev::connect_unix_datagram(data, &switch.0)
        .map_err(|e| says("data socket of the switch is not reachable", e))?;
    Ok(stream)
}
