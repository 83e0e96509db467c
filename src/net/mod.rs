//! The shell around the sans-IO parts: sockets, tasks and timers. The only place that knows both SMPP and the gateway's own
//! words, and so the only translator between them.
//!
//! One task per connection owns its session machine and buffers. A wake-up reads what the socket has, takes every whole PDU
//! in it, hands one batch to the engine and answers in one write.

mod accept;
mod auth;
pub mod bare;
mod brake;
mod convert;
mod customer;
mod deliver;
mod outbind;
mod pace;
mod pdus;
mod requests;
mod scrape;
mod status;
mod submit;
mod tls;
mod turnstile;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::flow::{Gateway, Signal};

pub use convert::{Form, LongMessages};
pub use deliver::ReceiptMaps;
pub use status::Statuses;
pub use tls::TlsClient;
pub use upstream::{LinkOptions, Validity};

/// Wakes a connection's task.
#[derive(Debug, Clone, Default)]
struct Wake(Arc<Notify>);

impl Signal for Wake {
    fn signal(&self) {
        self.0.notify_one();
    }
}

impl Wake {
    /// Whether it was rung since it was last looked at, for who does not wait for it.
    fn rung(&self) -> bool {
        let mut notified = std::pin::pin!(self.0.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        notified.as_mut().poll(&mut context).is_ready()
    }
}

/// Whose an address is, for limits: a host has a whole /64 of IPv6 to itself.
fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        v4 => v4,
    }
}

/// Everything the connection tasks share.
struct Shared {
    gateway: Arc<Gateway>,
    customer: crate::config::Customer,
    statuses: Statuses,
    auth: auth::Auth,
    crowd: Arc<accept::Crowd>,
    unbound_per_ip_max: u32,
    /// Stop accepting and reading; answer what is committed, unbind.
    stop: CancellationToken,
}

/// The running network side.
#[derive(Debug)]
pub struct Net {
    /// Where customers can connect (port 0 resolved): those of `listen`, then those of `tls_listen`.
    pub customer: Vec<SocketAddr>,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    stop: CancellationToken,
    links_stop: CancellationToken,
    customers: TaskTracker,
    links: TaskTracker,
}

impl Net {
    /// Opens every listener and starts the upstream binds.
    ///
    /// # Errors
    /// The first address that cannot be listened on, named.
    pub fn start(
        gateway: Arc<Gateway>,
        config: &Config,
        statuses: Statuses,
        links: Vec<LinkOptions>,
        render: scrape::Render,
    ) -> std::io::Result<Net> {
        let stop = CancellationToken::new();
        let links_stop = CancellationToken::new();
        let (customers, link_tasks) = (TaskTracker::new(), TaskTracker::new());
        let shared = Arc::new(Shared {
            gateway: Arc::clone(&gateway),
            customer: config.customer.clone(),
            statuses,
            auth: auth::Auth::new(config.limits.bind_checks_max as usize),
            crowd: Arc::default(),
            unbound_per_ip_max: config.limits.unbound_per_ip_max,
            stop: stop.clone(),
        });
        let acceptor = acceptor(config)?;
        let mut addresses = Vec::new();
        let plain = config.customer.listen.iter().map(|a| (*a, None));
        let sealed = config.customer.tls_listen.iter().map(|a| (*a, acceptor.clone()));
        for (address, tls) in plain.chain(sealed) {
            let listener = accept::listen(address)?;
            addresses.push(listener.local_addr()?);
            customers.spawn(accept::run(listener, Arc::clone(&shared), customers.clone(), tls));
        }
        if let Some(acceptor) = acceptor {
            link_tasks.spawn(acceptor.watch(links_stop.clone()));
        }
        customers.spawn(outbind::run(Arc::clone(&shared), customers.clone()));
        let mut metrics = None;
        if let Some(address) = config.metrics.listen {
            let listener = accept::listen(address)?;
            metrics = Some(listener.local_addr()?);
            link_tasks.spawn(scrape::run(
                listener,
                Arc::clone(&gateway),
                render,
                links_stop.clone(),
            ));
        }
        for link in links {
            upstream::start(&gateway, link, &links_stop, &link_tasks);
        }
        Ok(Net {
            customer: addresses,
            metrics,
            stop,
            links_stop,
            customers,
            links: link_tasks,
        })
    }

    /// First half of the end: customers are answered and unbound, nothing new is read from them.
    pub async fn stop_customers(&self) {
        self.stop.cancel();
        self.customers.close();
        self.customers.wait().await;
    }

    /// Second half: upstream binds take their last responses, commit their receipts and unbind.
    pub async fn stop_links(&self) {
        self.links_stop.cancel();
        self.links.close();
        self.links.wait().await;
    }
}

/// The certificate that customers see, if they may come over TLS.
fn acceptor(config: &Config) -> std::io::Result<Option<Arc<tls::Acceptor>>> {
    let c = &config.customer;
    if c.tls_listen.is_empty() {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&c.tls_cert, &c.tls_key) else {
        return Err(std::io::Error::other("tls_listen needs tls_cert and tls_key"));
    };
    let files = tls::Files {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: c.tls_client_ca.clone(),
    };
    tls::Acceptor::new(files).map(Some).map_err(std::io::Error::other)
}
