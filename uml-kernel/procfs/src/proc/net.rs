//! `/proc/<pid>/net`: tables of the network. The network subsystem enters its files in
//! [`super::sources::Sources::add_net`]; until it does, the tables that every machine has are there with their head
//! lines only.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::ENOENT;
use uml_core::task::Task;

use super::pid::Target;
use super::sources::NetDir;
use crate::synth::{Directory, Entry, Spec, TextFn};

const HEADS: [(&str, &str); 9] = [
    (
        "dev",
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    ),
    ("unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"),
    (
        "tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n",
    ),
    (
        "udp",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             \n",
    ),
    (
        "raw",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
    (
        "route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n",
    ),
    ("arp", "IP address       HW type     Flags       HW address            Mask     Device\n"),
    (
        "netlink",
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
    ),
    ("packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
];

/// The directory.
pub struct Net(pub Target);

impl Directory for Net {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let sources = &self.0.mnt.sources;
        if let Some(dir) = sources.net_dir(name) {
            return Ok(Spec::dir(Files { of: self.0.clone(), dir }));
        }
        match sources.net_file(name) {
            Err(e) => match HEADS.iter().find(|(n, _)| n.as_bytes() == name) {
                Some((_, head)) => {
                    let head = head.as_bytes();
                    let show = move |_: &Task, out: &mut crate::synth::Text| {
                        out.raw(head);
                        Ok(())
                    };
                    Ok(Spec::file(0o444, TextFn::new(show)))
                }
                None => Err(e),
            },
            found => found,
        }
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let mut v = self.0.mnt.sources.net_files();
        for (name, _) in HEADS {
            if !v.iter().any(|e| e.name == name.as_bytes()) {
                v.push(Entry::new(name, libc::S_IFREG));
            }
        }
        Ok(v)
    }
}

/// A directory whose files depend on the namespace of the process.
struct Files {
    of: Target,
    dir: Arc<dyn NetDir>,
}

impl Files {
    fn has(&self, name: &[u8]) -> bool {
        let names = self.of.task().map(|t| self.dir.names(&t)).unwrap_or_default();
        names.iter().any(|n| n.as_bytes() == name)
    }
}

impl Directory for Files {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        if !self.has(name) {
            return Err(ENOENT);
        }
        let name = String::from_utf8(name.to_vec()).map_err(|_| ENOENT)?;
        let (of, dir) = (self.of.clone(), self.dir.clone());
        let show = move |_: &Task, out: &mut crate::synth::Text| dir.show(&*of.task()?, &name, out);
        Ok(Spec::file(0o444, TextFn::new(show)))
    }

    fn list(&self, _: &Task) -> Result<Vec<Entry>> {
        let names = self.dir.names(&*self.of.task()?);
        Ok(names.into_iter().map(|n| Entry::new(n, libc::S_IFREG)).collect())
    }

    fn keeps(&self, name: &[u8]) -> bool {
        self.has(name)
    }
}
