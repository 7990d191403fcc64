//! What the machine consists of: filesystems, drivers, hooks, in the order they are entered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::{Errno, Result};
use uml_core::file::File;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_drivers::console::{ConsoleOptions, Consoles, StderrConsole};
use uml_drivers::legacy::Legacy;
use uml_drivers::ubd::Ubd;
use uml_drivers::vector::Vectors;
use uml_fs::hostfs;
use uml_host::reactor::Reactor;
use uml_net::stack::Stack;
use uml_procfs::synth::TextFn;
use uml_tty::devices::TerminalLayer;
use uml_vdso::{Offsets, VdsoImage};

use crate::cmdline::Options;
use crate::netconfig;
use crate::outside::Outside;

/// Devices that hold something of the host until the machine ends.
pub struct Devices {
    pub consoles: Arc<Consoles>,
    disks: Arc<Ubd>,
    /// The network of the first namespace.
    pub net: Arc<Stack>,
}

/// How hostfs mounts are confined.
pub fn hostfs_config(o: &Options) -> hostfs::Config {
    hostfs::Config { root: o.hostfs_root.clone().into_bytes(), append: o.hostfs_append }
}

/// Enters everything that exists before the root is mounted; the error is the panic's text.
pub fn register(
    kernel: &Arc<Kernel>,
    o: &Options,
    outside: &mut Outside,
) -> std::result::Result<Devices, String> {
    let text = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    kernel.set_system_call(uml_syscalls::dispatch::system_call);
    uml_syscalls::aio::install(kernel);
    uml_fs::register(kernel, hostfs_config(o)).map_err(text("filesystems"))?;
    let proc = uml_procfs::register(kernel);
    uml_ipc::init(kernel);
    let net = uml_inet::init(kernel, &proc);
    let unix = TextFn::new(|task, out| {
        out.raw(&uml_ipc::unix::table(task.ns().net.id));
        Ok(())
    });
    proc.sources.add_net("unix", 0o444, unix);
    proc.sources.set_sysv(|which, task, out| {
        use uml_ipc::sysv::list;
        use uml_procfs::SysvIpc;
        let text = match which {
            SysvIpc::Msg => list::messages(task),
            SysvIpc::Sem => list::semaphores(task),
            SysvIpc::Shm => list::segments(task),
        };
        out.bytes_mut().extend_from_slice(text.as_bytes());
    });
    let aio = TextFn::new(|_, out| {
        writeln!(out, "{}", uml_syscalls::aio::requests());
        Ok(())
    });
    proc.sources.add_sysctl("fs/aio-nr", 0o444, aio);
    uml_base::pressure::set_processors(kernel.ncpus);
    uml_core::task::load::start(kernel).map_err(|e| format!("load average thread: {e}"))?;
    uml_core::memory::start(kernel).map_err(|e| format!("memory watch thread: {e}"))?;
    outside.open(kernel, &proc, &net);
    let layer = TerminalLayer::install(kernel).map_err(text("terminals"))?;
    let reactor = Reactor::start().map_err(|e| format!("host I/O thread: {e}"))?;
    let consoles = consoles(kernel, &layer, &reactor, o).map_err(text("consoles"))?;
    let disks = Ubd::install(kernel, &o.disks).map_err(text("ubd"))?;
    Vectors::install(kernel, &net, &o.vectors);
    Legacy::install(kernel, &net, &o.legacy_nets);
    if let Some(ip) = &o.ip {
        netconfig::show(&proc, ip);
        if let Err(e) = netconfig::apply(ip, kernel, &net) {
            uml_base::pr_err!("{e}");
        }
    }
    uml_drivers::watchdog::register(kernel, o.notify.as_deref()).map_err(text("watchdog"))?;
    let consoles = Arc::new(consoles);
    uml_drivers::configure::register(kernel, &disks, &consoles);
    Ok(Devices { consoles, disks, net })
}

fn consoles(
    kernel: &Arc<Kernel>,
    layer: &Arc<TerminalLayer>,
    reactor: &Arc<Reactor>,
    o: &Options,
) -> Result<Consoles> {
    let options = ConsoleOptions {
        con: o.consoles.clone(),
        ssl: o.serial_lines.clone(),
        ssl_non_raw: o.ssl_non_raw,
        xterm: o.xterm.clone(),
        umid: kernel.umid.get().cloned().unwrap_or_default(),
    };
    let mut c = Consoles::install(kernel, layer, reactor, &options)?;
    if o.log_stderr {
        StderrConsole::register(kernel);
    }
    // Without any console= the first console is the kernel's.
    let default = ["tty0".to_owned()];
    c.start_log(if o.log_consoles.is_empty() { &default } else { &o.log_consoles });
    c.follow_resizes();
    Ok(c)
}

/// The vDSO, kept up to date with the guest's clocks.
pub fn vdso(kernel: &Arc<Kernel>) -> Result<()> {
    let Some(platform) = kernel.platform() else { return Ok(()) };
    let (real_ns, mono_ns) = kernel.time.offsets();
    let same_numbers = uml_host::sched::machine_cpus().iter().enumerate().all(|(i, c)| i == *c);
    kernel.same_cpu_numbers.store(same_numbers, Ordering::Relaxed);
    let image =
        Arc::new(VdsoImage::new(&platform.limits(), Offsets { real_ns, mono_ns }, same_numbers)?);
    let published = image.clone();
    kernel.time.set_offset_hook(Box::new(move |real_ns, mono_ns| {
        if let Err(e) = published.set_offsets(Offsets { real_ns, mono_ns }) {
            uml_base::pr_err!("vDSO: clock offsets not published: {e}");
        }
    }));
    let _ = kernel.vdso.set(Box::new(SharedVdso(image)));
    Ok(())
}

/// The image as the kernel holds it.
struct SharedVdso(Arc<VdsoImage>);

impl uml_core::kernel::Vdso for SharedVdso {
    fn map(
        &self,
        hw: &mut dyn uml_platform::Context,
        mm: &uml_mm::Mm,
        time: &uml_core::ns::TimeNs,
    ) -> Result<u64> {
        self.0.map(hw, mm, time)
    }

    fn renew(
        &self,
        hw: &mut dyn uml_platform::Context,
        mm: &uml_mm::Mm,
        time: &uml_core::ns::TimeNs,
    ) -> Result<()> {
        self.0.renew(hw, mm, time)
    }
}

/// A descriptor of the kernel process as a file of the guest.
pub fn host_stdio(task: &Arc<Task>, fd: usize) -> Result<Arc<File>> {
    uml_drivers::stdio::open(task, fd)
}

/// Gives back what devices hold on the host: what lines still have to send, terminal modes, disks.
///
/// After a panic nothing is written: what is in memory may be what is wrong.
pub fn stop(kernel: &Arc<Kernel>, devices: Option<&Devices>, orderly: bool) {
    if orderly {
        for e in kernel.vfs.sync_all() {
            uml_base::pr_err!("final sync: {e}");
        }
    }
    if let Some(d) = devices {
        if orderly {
            d.disks.flush_all();
        }
        d.consoles.shutdown();
    }
}
