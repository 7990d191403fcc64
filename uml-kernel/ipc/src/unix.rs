//! Sockets between processes of the machine (unix(7)).
//!
//! A sender copies its data into a packet and puts that on the receiver's queue; the packet is
//! charged to the sender until it is consumed, which is what blocks a writer whose peer does not
//! read. A connection is two sockets that hold each other until one is closed.
//!
//! Lock order: a socket's reading side; then the inner lock, of a listener before that of a connection.
//! Packets may hold open files, so they are dropped only after the inner lock is released.

mod addr;
mod connect;
mod ops;
mod proc;
mod recv;
mod rights;
mod send;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::kernel::Kernel;
use uml_core::landlock::{Domain, scope};
use uml_core::task::{Process, Task};
use uml_core::vfs::anon::AnonInode;

use crate::socket::{Options, Socket, SocketFamily};
use addr::Name;
pub use proc::{Row, rows, table};
use rights::Rights;

/// Messages a datagram socket queues (net.unix.max_dgram_qlen).
pub static MAX_DGRAM_QLEN: AtomicUsize = AtomicUsize::new(10);
/// Largest listen(2) backlog (net.core.somaxconn).
pub const SOMAXCONN: i32 = 4096;
/// What a packet costs beyond its bytes, as on Linux a socket buffer's bookkeeping does.
const OVERHEAD: usize = 768;

/// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Stream = libc::SOCK_STREAM as isize,
    Dgram = libc::SOCK_DGRAM as isize,
    SeqPacket = libc::SOCK_SEQPACKET as isize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unconnected,
    Listening,
    Connected,
    /// The last descriptor is closed.
    Dead,
}

/// Who is at the other end.
#[derive(Clone)]
struct PeerCred {
    process: Arc<Process>,
    uid: u32,
    gid: u32,
    groups: Arc<[u32]>,
}

impl PeerCred {
    fn of(task: &Task) -> PeerCred {
        let c = task.cred();
        PeerCred {
            process: task.process.clone(),
            uid: c.euid,
            gid: c.egid,
            groups: c.groups.clone(),
        }
    }
}

/// SCM_CREDENTIALS of a packet.
#[derive(Clone)]
struct Creds {
    pid: i32,
    uid: u32,
    gid: u32,
    process: Arc<Process>,
}

impl PartialEq for Creds {
    fn eq(&self, o: &Creds) -> bool {
        (self.pid, self.uid, self.gid) == (o.pid, o.uid, o.gid)
    }
}

/// What a socket has sent and nobody has consumed.
struct Account {
    used: AtomicUsize,
    options: Arc<Options>,
    queue: Arc<WaitQueue>,
    /// An unused buffer for the next packet.
    spare: Mutex<Option<Box<[u8]>>>,
}

impl Account {
    fn limit(&self) -> usize {
        self.options.sndbuf.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.used.load(Ordering::SeqCst) < self.limit()
    }

    /// Room enough that pollers and sleepers are told: three quarters are free.
    fn writable(&self) -> bool {
        self.used.load(Ordering::SeqCst) * 4 <= self.limit()
    }
}

/// A packet's share of its sender's account.
struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    fn new(account: &Arc<Account>, len: usize) -> Charge {
        let bytes = len + OVERHEAD;
        account.used.fetch_add(bytes, Ordering::SeqCst);
        Charge { account: account.clone(), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::SeqCst);
        if self.account.writable() {
            self.account.queue.wake_all(Events::WRITABLE | Events::WRBAND);
        }
    }
}

/// One message, or one write of a stream.
struct Packet {
    data: Box<[u8]>,
    off: usize,
    end: usize,
    charge: Charge,
    creds: Option<Creds>,
    rights: Option<Rights>,
    from: Option<Vec<u8>>,
}

impl Packet {
    fn bytes(&self) -> &[u8] {
        &self.data[self.off..self.end]
    }

    /// Gives the memory back to the sender for its next packet.
    fn recycle(self) {
        let spare = &self.charge.account.spare;
        let mut slot = spare.lock();
        if slot.as_ref().is_none_or(|s| s.len() < self.data.len()) {
            *slot = Some(self.data);
        }
    }
}

struct Inner {
    state: State,
    name: Option<Name>,
    /// Set when the name is this socket's own: accepted connections only show their listener's.
    bound: Option<Weak<Kernel>>,
    peer: Option<Arc<UnixSocket>>,
    queue: VecDeque<Packet>,
    /// A reader has the front packet in its hands and may put a rest back.
    reading: bool,
    /// Connections nobody has accepted yet.
    pending: VecDeque<Arc<UnixSocket>>,
    backlog: usize,
    shut_read: bool,
    shut_write: bool,
    error: Option<Errno>,
    peer_cred: Option<PeerCred>,
    /// Of the process that called listen(2): what connecting peers see.
    listen_cred: Option<PeerCred>,
}

/// An AF_UNIX socket.
pub struct UnixSocket {
    me: Weak<UnixSocket>,
    kind: Kind,
    /// Number of its network namespace: abstract names are per namespace.
    net: u64,
    options: Arc<Options>,
    /// Every change: data, room, connections, the end.
    wait: Arc<WaitQueue>,
    account: Arc<Account>,
    read_side: Mutex<()>,
    inner: Mutex<Inner>,
    /// The restrictions of who made it.
    maker: Option<Arc<Domain>>,
    /// The inode of its descriptor; none while nobody has accepted the connection.
    file: OnceLock<Weak<AnonInode>>,
}

/// Every socket there is, by address (/proc/net/unix).
static ALL: LazyLock<Mutex<BTreeMap<usize, Weak<UnixSocket>>>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, BTreeMap::new()));

impl Drop for UnixSocket {
    fn drop(&mut self) {
        ALL.lock().remove(&(std::ptr::from_ref(self) as usize));
    }
}

impl UnixSocket {
    fn new(task: &Task, kind: Kind, net: u64, options: Options) -> Arc<UnixSocket> {
        let options = Arc::new(options);
        let wait = WaitQueue::shared();
        let account = Arc::new(Account {
            used: AtomicUsize::new(0),
            options: options.clone(),
            queue: wait.clone(),
            spare: Mutex::new(Rank::LEAF, None),
        });
        let socket = Arc::new_cyclic(|me| UnixSocket {
            me: me.clone(),
            kind,
            net,
            options,
            wait,
            account,
            read_side: Mutex::new(Rank::STREAM_READ, ()),
            inner: Mutex::new(
                Rank::SOCKET,
                Inner {
                    state: State::Unconnected,
                    name: None,
                    bound: None,
                    peer: None,
                    queue: VecDeque::new(),
                    reading: false,
                    pending: VecDeque::new(),
                    backlog: 0,
                    shut_read: false,
                    shut_write: false,
                    error: None,
                    peer_cred: None,
                    listen_cred: None,
                },
            ),
            maker: task.cred().landlock.clone(),
            file: OnceLock::new(),
        });
        ALL.lock().insert(Arc::as_ptr(&socket) as usize, Arc::downgrade(&socket));
        socket
    }

    fn this(&self) -> Result<Arc<UnixSocket>> {
        self.me.upgrade().ok_or(EBADF)
    }

    /// The task's domain keeps it from abstract names of whoever made this socket (landlock(7),
    /// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET).
    fn is_apart(&self, task: &Task) -> bool {
        let cred = task.cred();
        let own = cred.landlock.as_ref();
        own.is_some() && scope::forbids(own, self.maker.as_ref(), scope::ABSTRACT_UNIX_SOCKET)
    }

    /// `EPERM` where that forbids a datagram to `other`; a connection made before stays good.
    fn check_scope(&self, task: &Task, other: &Arc<UnixSocket>) -> Result<()> {
        if !other.is_apart(task) {
            return Ok(());
        }
        let connected = self.inner.lock().peer.as_ref().is_some_and(|p| Arc::ptr_eq(p, other));
        let named = matches!(other.inner.lock().name, Some(Name::Abstract(_)));
        if named && !connected { Err(EPERM) } else { Ok(()) }
    }

    fn connection_based(&self) -> bool {
        self.kind != Kind::Dgram
    }

    /// The socket behind a [`Socket`].
    pub fn of(s: &dyn Socket) -> Option<&UnixSocket> {
        s.as_any().downcast_ref()
    }

    /// Connects two fresh sockets with each other.
    fn join(a: &Arc<UnixSocket>, b: &Arc<UnixSocket>, task: &Task) {
        for (x, y) in [(a, b), (b, a)] {
            let mut inner = x.inner.lock();
            inner.state = State::Connected;
            inner.peer = Some(y.clone());
            inner.peer_cred = Some(PeerCred::of(task));
        }
    }
}

/// AF_UNIX.
pub struct Family;

fn kind(kind: i32, protocol: i32) -> Result<Kind> {
    if protocol != 0 && protocol != libc::AF_UNIX {
        return Err(EPROTONOSUPPORT);
    }
    match kind {
        libc::SOCK_STREAM => Ok(Kind::Stream),
        // Believe it or not, BSD has AF_UNIX, SOCK_RAW: it means datagrams.
        libc::SOCK_DGRAM | libc::SOCK_RAW => Ok(Kind::Dgram),
        libc::SOCK_SEQPACKET => Ok(Kind::SeqPacket),
        _ => Err(ESOCKTNOSUPPORT),
    }
}

impl SocketFamily for Family {
    fn create(&self, task: &Task, k: i32, protocol: i32) -> Result<Arc<dyn Socket>> {
        Ok(UnixSocket::new(task, kind(k, protocol)?, task.ns().net.id, Options::default()))
    }

    fn pair(
        &self,
        task: &Task,
        k: i32,
        protocol: i32,
    ) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        let kind = kind(k, protocol)?;
        let net = task.ns().net.id;
        let a = UnixSocket::new(task, kind, net, Options::default());
        let b = UnixSocket::new(task, kind, net, Options::default());
        UnixSocket::join(&a, &b, task);
        Ok((a, b))
    }
}
