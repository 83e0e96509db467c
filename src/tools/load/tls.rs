//! Binding through TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::LoadError;

/// Which servers are trusted.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// `ca`: a PEM file with the certificates that vouch for the server; `name`: what its own must be for.
    ///
    /// # Errors
    /// [`LoadError::Tls`] names the file or the name, and what is wrong with it.
    pub fn new(ca: &Path, name: &str) -> Result<Tls, LoadError> {
        let wrong = |e: &dyn std::fmt::Display| LoadError::Tls(format!("{}: {e}", ca.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| wrong(&e))? {
            roots
                .add(certificate.map_err(|e| wrong(&e))?)
                .map_err(|e| wrong(&e))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| LoadError::Tls(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_string())
            .map_err(|e| LoadError::Tls(format!("the name {name:?}: {e}")))?;
        Ok(Tls {
            config: Arc::new(config),
            name,
        })
    }

    pub(super) fn connect(&self) -> Result<rustls::Connection, LoadError> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map(Into::into)
            .map_err(|e| LoadError::Tls(e.to_string()))
    }
}
