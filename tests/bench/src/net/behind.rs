//! A namespace of the host behind slirp4netns(1) or pasta(1), as guests are behind `transport=user`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::Router;
use crate::wires::{Link, Namespace, Owned, ip};

/// How long a router may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The namespace and what connects it, until it is dropped.
pub struct Behind {
    _router: Owned,
    pub inside: Namespace,
    /// What this namespace's 127.0.0.1 is called inside.
    pub host: &'static str,
    _link: Option<Link>,
}

impl Behind {
    pub fn new(router: Router) -> Result<Behind, String> {
        let inside = match router {
            Router::Slirp4netns => Namespace::new()?,
            // It enters a namespace without privileges only.
            Router::Pasta => Namespace::of_user()?,
        };
        let pid = inside.pid().to_string();
        let (mut c, host, link) = match router {
            Router::Slirp4netns => {
                let mut c = Command::new("slirp4netns");
                c.args(["--configure", "--mtu=65520", &pid, "tap0"]);
                (c, "10.0.2.2", None)
            }
            Router::Pasta => {
                // It takes its addresses from an interface with a default route, and its gateway stands for 127.0.0.1.
                ip("link add dev near9 type veth peer name far9")?;
                let link = Link("near9");
                ip("addr add 10.9.0.1/24 dev near9")?;
                ip("link set near9 up")?;
                ip("link set far9 up")?;
                ip("route add default via 10.9.0.254")?;
                let mut c = Command::new("pasta");
                c.args(["-f", "-q", "--config-net", "--runas", "0", &pid]);
                (c, "10.9.0.254", Some(link))
            }
        };
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = c.spawn().map_err(|e| format!("{:?}: {e}", c.get_program()))?;
        let mut b = Behind { _router: Owned(child), inside, host, _link: link };
        b.wait()?;
        Ok(b)
    }

    /// Until the namespace has an address.
    fn wait(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let o = self.inside.command(&["ip", "-4", "route", "show", "default"]).output();
            if !o.map_err(|e| format!("nsenter: {e}"))?.stdout.is_empty() {
                return Ok(());
            }
            if let Ok(Some(status)) = self._router.0.try_wait() {
                return Err(format!("the router ended: {status}"));
            }
        }
        Err("the router gives no address".into())
    }
}
