//! Resource limits (getrlimit(2)).

/// Resource numbers of getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Resource {
    Cpu = 0,
    Fsize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Rss = 5,
    Nproc = 6,
    NoFile = 7,
    Memlock = 8,
    As = 9,
    Locks = 10,
    Sigpending = 11,
    Msgqueue = 12,
    Nice = 13,
    Rtprio = 14,
    Rttime = 15,
}

impl Resource {
    /// From the number a program passes.
    pub fn from_raw(n: u64) -> Option<Resource> {
        use Resource::*;
        const ALL: [Resource; 16] = [
            Cpu, Fsize, Data, Stack, Core, Rss, Nproc, NoFile, Memlock, As, Locks, Sigpending,
            Msgqueue, Nice, Rtprio, Rttime,
        ];
        ALL.get(usize::try_from(n).ok()?).copied()
    }
}

/// No limit.
pub const INFINITY: u64 = u64::MAX;

/// Soft and hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    pub soft: u64,
    pub hard: u64,
}

/// The limits of a process.
#[derive(Clone, Debug)]
pub struct Rlimits([Rlimit; 16]);

impl Rlimits {
    /// What Linux gives init on a machine whose memory allows `max_threads` tasks.
    pub fn initial(max_threads: u64) -> Rlimits {
        let inf = Rlimit { soft: INFINITY, hard: INFINITY };
        let mut l = [inf; 16];
        let same = |n| Rlimit { soft: n, hard: n };
        l[Resource::Stack as usize] = Rlimit { soft: 8 << 20, hard: INFINITY };
        l[Resource::Core as usize] = Rlimit { soft: 0, hard: INFINITY };
        l[Resource::Nproc as usize] = same(max_threads / 2);
        l[Resource::NoFile as usize] = Rlimit { soft: 1024, hard: 4096 };
        l[Resource::Memlock as usize] = same(8 << 20);
        l[Resource::Sigpending as usize] = same(max_threads / 2);
        l[Resource::Msgqueue as usize] = same(819_200);
        l[Resource::Nice as usize] = same(0);
        l[Resource::Rtprio as usize] = same(0);
        Rlimits(l)
    }

    /// The limit of `r`.
    pub fn get(&self, r: Resource) -> Rlimit {
        self.0[r as usize]
    }

    /// Replaces the limit of `r`.
    pub fn set(&mut self, r: Resource, l: Rlimit) {
        self.0[r as usize] = l;
    }
}
