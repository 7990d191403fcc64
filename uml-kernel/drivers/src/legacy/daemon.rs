//! A port of a `uml_switch` (uml_switch(1)): a control connection that is the port's life, and datagrams of one
//! frame each.
//!
//! The port is there from configuration on, as with the stock driver: frames that arrive while the
//! interface is down wait in the socket.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use uml_base::{Mutex, Rank, pr_info};
use uml_formats::switch::{ADDRESS_LEN, Address, Request};
use uml_host::netdev;
use uml_net::wire::ethernet::Mac;

use crate::vector::device::HostSide;
use crate::vector::frame::Encap;
use crate::vector::open::{Endpoint, Failed, failed, plain};

/// A switch answers at once; one that is stopped must not stop the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A port of a switch.
pub struct SwitchPort {
    control: String,
    joined: Mutex<Joined>,
}

struct Joined {
    control: UnixStream,
    data: OwnedFd,
}

impl SwitchPort {
    /// Joins the switch whose control socket is at `control`. The error is a text.
    pub fn join(control: &str) -> Result<SwitchPort, String> {
        let joined = join(control)?;
        Ok(SwitchPort { control: control.to_owned(), joined: Mutex::new(Rank::LEAF, joined) })
    }
}

impl Joined {
    /// The switch has closed the port, or is gone.
    fn ended(&self) -> bool {
        uml_host::wait::ready(self.control.as_fd(), libc::POLLIN)
    }
}

impl HostSide for SwitchPort {
    fn open(&self, _: Mac) -> Result<Endpoint, Failed> {
        let mut joined = self.joined.lock();
        if joined.ended() {
            match join(&self.control) {
                Ok(j) => *joined = j,
                Err(text) => return failed(text),
            }
            pr_info!("daemon: joined {} again", self.control);
        }
        match netdev::duplicate(&joined.data) {
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

fn join(control: &str) -> Result<Joined, String> {
    let says = |what: &str, e: std::io::Error| {
        let n = e.raw_os_error().unwrap_or(0);
        format!("daemon_open : {what}, errno = {n} ({control}: {e})")
    };
    let mut stream = netdev::connect_unix_stream(Path::new(control))
        .map_err(|e| says("control connect failed", e))?;
    let address = own_address();
    let data = netdev::open_unix_datagram(&address.0).map_err(|e| says("data bind failed", e))?;
    let request = Request { version: 3, address }.encode();
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
    netdev::connect_unix_datagram(&data, &switch.0)
        .map_err(|e| says("data socket of the switch is not reachable", e))?;
    Ok(Joined { control: stream, data })
}
