//! `transport=user`: the interface's other side is a router in this process, which needs no privilege.
//!
//! Frames are routed in the thread that sends them, as far as the host's sockets take what is in them; a
//! thread of its own waits for the sockets ([`super::router`]).

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_nat::Config;
use uml_net::interface::{Device, Features, Interface, Sent};
use uml_net::packet::Packet;
use uml_net::stack::Stack;
use uml_net::wire::ethernet::Mac;

use super::router::Router;

/// An interface with a router behind it.
pub struct UserDevice {
    me: Weak<UserDevice>,
    unit: u32,
    config: Config,
    mac: Mutex<Mac>,
    open: Mutex<Option<(Arc<Router>, JoinHandle<()>)>>,
}

impl UserDevice {
    /// The device of a configuration, closed.
    pub fn new(unit: u32, config: Config, mac: Mac) -> Arc<UserDevice> {
        Arc::new_cyclic(|me| UserDevice {
            me: me.clone(),
            unit,
            config,
            mac: Mutex::new(Rank::LEAF, mac),
            open: Mutex::new(Rank::LEAF, None),
        })
    }

    fn router(&self) -> Option<Arc<Router>> {
        self.open.lock().as_ref().map(|o| o.0.clone())
    }
}

impl Device for UserDevice {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn open(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) -> Result<()> {
        let mut config = self.config.clone();
        (config.guest_mac, config.mtu) = (*self.mac.lock(), iface.mtu());
        let unit = self.unit;
        let router = Router::new(config, iface, stack).map_err(|text| {
            pr_err!("vec{unit}: {text}");
            EINVAL
        })?;
        let r = router.clone();
        // The device's life bounds that of the thread; it holds the router alone.
        let thread = std::thread::Builder::new()
            .name(format!("vec{unit} user"))
            .spawn(move || r.serve())
            .map_err(|_| EAGAIN)?;
        self.me.upgrade().ok_or(ENODEV)?;
        *self.open.lock() = Some((router, thread));
        Ok(())
    }

    fn close(&self) {
        let Some((router, thread)) = self.open.lock().take() else { return };
        router.stop();
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut sent = Sent::default();
        let Some(router) = self.router() else {
            sent.dropped = batch.len() as u64;
            batch.clear();
            return sent;
        };
        for p in batch.iter() {
            sent.packets += 1;
            sent.bytes += p.len() as u64;
        }
        router.take(batch);
        sent
    }

    fn undelivered(&self) -> u64 {
        self.router().map_or(0, |r| r.undelivered())
    }

    fn set_mac(&self, mac: Mac) -> Result<()> {
        *self.mac.lock() = mac;
        Ok(())
    }

    fn driver(&self) -> (&'static str, String) {
        ("uml-vector", format!("uml-vector.{}", self.unit))
    }
}
