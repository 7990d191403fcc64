//! Limits of the host on the kernel process (getrlimit(2), cgroups(7), proc_sys_vm(5)), and which of them is used up.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A limit counts as used up when fewer than this are left: what failed has been given back when one looks.
const MARGIN: u64 = 16;

/// A limit of the host that is used up, or nearly. Shown with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// `RLIMIT_NOFILE`, or the path of a file of the host.
    pub limit: String,
    /// What it is a limit on.
    pub of: &'static str,
    pub used: u64,
    pub most: u64,
    /// What raises it.
    pub remedy: &'static str,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Short { limit, of, used, most, remedy } = self;
        let nearly = if used < most { "nearly " } else { "" };
        let state = format!("{nearly}used up: {used} of {most}");
        write!(f, "the host's limit on {of} is {state} ({limit}); {remedy} raises it")
    }
}

/// The limits on descriptors, processes, mappings and address space that are used up at this moment.
pub fn short() -> Vec<Short> {
    let mine = [descriptors(), processes(), mappings(), address_space()].into_iter().flatten();
    mine.chain(groups()).filter(|s| s.used.saturating_add(MARGIN) >= s.most).collect()
}

/// Soft limit of a resource; `None` is no limit.
fn soft(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    let r = unsafe { libc::getrlimit(resource, &mut l) };
    (r == 0 && l.rlim_cur != libc::RLIM_INFINITY).then_some(l.rlim_cur)
}

fn descriptors() -> Option<Short> {
    let most = soft(libc::RLIMIT_NOFILE)?;
    // Where the directory itself cannot be opened, they are all in use.
    let used = fs::read_dir("/proc/self/fd").map_or(most, |d| d.count() as u64);
    let limit = "RLIMIT_NOFILE".to_owned();
    Some(Short { limit, of: "open descriptors", used, most, remedy: "ulimit -n" })
}

/// The limit is on processes and threads of a user, and not on those who may exceed it.
fn processes() -> Option<Short> {
    let most = soft(libc::RLIMIT_NPROC)?;
    let uid = fs::metadata("/proc/self").ok()?.uid();
    if uid == 0 {
        return None;
    }
    let of_user = |e: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let path = e.ok()?.path();
        let number = path.file_name()?.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if !number || fs::metadata(&path).ok()?.uid() != uid {
            return None;
        }
        // What is being ended has no directory of threads any more, and counts.
        Some(fs::read_dir(path.join("task")).map_or(1, |d| (d.count() as u64).max(1)))
    };
    let used = fs::read_dir("/proc").ok()?.filter_map(of_user).sum();
    let limit = "RLIMIT_NPROC".to_owned();
    Some(Short { limit, of: "the user's processes and threads", used, most, remedy: "ulimit -u" })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn mappings() -> Option<Short> {
    let limit = "/proc/sys/vm/max_map_count";
    let most = number(Path::new(limit))?;
    let used = fs::read("/proc/self/maps").ok()?.iter().filter(|b| **b == b'\n').count() as u64;
    let remedy = "sysctl vm.max_map_count=";
    Some(Short { limit: limit.to_owned(), of: "mappings of a process", used, most, remedy })
}

fn address_space() -> Option<Short> {
    let most = soft(libc::RLIMIT_AS)? >> 20;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"))?;
    let used = size.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10;
    let limit = "RLIMIT_AS".to_owned();
    Some(Short { limit, of: "address space in MiB", used, most, remedy: "ulimit -v" })
}

/// Bytes that a file of this process may have (RLIMIT_FSIZE); `None` is no limit.
pub fn file_size() -> Option<u64> {
    soft(libc::RLIMIT_FSIZE)
}

/// `pids.max` of the own cgroup and those above it.
fn groups() -> Vec<Short> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let of = |dir: &Path| {
        let (used, most) = (number(&dir.join("pids.current"))?, number(&dir.join("pids.max"))?);
        let limit = dir.join("pids.max").display().to_string();
        let remedy = "TasksMax= of its systemd unit";
        Some(Short { limit, of: "the control group's processes and threads", used, most, remedy })
    };
    root.join(own).ancestors().take_while(|d| d.starts_with(root)).filter_map(of).collect()
}

/// Soft and hard RLIMIT_CORE in bytes; `None` is no limit.
pub fn core() -> (Option<u64>, Option<u64>) {
    let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    let r = unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut l) };
    if r != 0 {
        return (Some(0), Some(0));
    }
    let show = |v| if v == libc::RLIM_INFINITY { None } else { Some(v) };
    (show(l.rlim_cur), show(l.rlim_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_counted() {
        let before = descriptors().expect("a limit").used;
        let more: Vec<_> = (0..40).map(|_| fs::File::open("/dev/null").expect("null")).collect();
        let now = descriptors().expect("a limit");
        // Other tests of this process open and close files too.
        assert!(now.used + 20 >= before + more.len() as u64, "{before} {now:?}");
        assert!(now.most >= now.used);
        let m = mappings().expect("a limit");
        assert!(m.used > 10 && m.most >= 1000, "{m:?}");
    }

    #[test]
    fn a_limit_is_told_with_its_remedy() {
        let s = Short { used: 8, most: 8, ..descriptors().expect("a limit") };
        assert_eq!(
            s.to_string(),
            "the host's limit on open descriptors is used up: 8 of 8 (RLIMIT_NOFILE); ulimit -n raises it"
        );
        assert!(Short { used: 7, ..s }.to_string().contains("is nearly used up: 7 of 8 "));
    }
}
