//! TLS on both sides with rustls: certificates from PEM files, read again when they change; client certificates that belong to
//! accounts; SMSCs known by an authority or by a fingerprint. Nothing ever falls back to plain text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_util::sync::CancellationToken;

/// How often the certificate files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256 of a certificate, in small hexadecimal letters.
#[must_use]
pub(super) fn fingerprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A fingerprint as people write it (capitals, colons), as [`fingerprint`] does.
#[must_use]
pub(super) fn normal(fingerprint: &str) -> String {
    fingerprint
        .chars()
        .filter(|c| *c != ':' && !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn named(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| named(path)(&e))?
        .collect();
    match all {
        Ok(list) if list.is_empty() => Err(named(path)(&"holds no certificate")),
        Ok(list) => Ok(list),
        Err(e) => Err(named(path)(&e)),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|e| named(path)(&e))?;
    }
    Ok(store)
}

/// The certificate that customers see.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

impl Files {
    fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| named(&self.key)(&e))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|e| named(path)(&e))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|e| format!("{} and {}: {e}", self.cert.display(), self.key.display()))?;
        Ok(Arc::new(config))
    }

    /// When each file was last changed.
    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let modified = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        [&self.cert, &self.key]
            .into_iter()
            .chain(&self.client_ca)
            .map(modified)
            .collect()
    }
}

/// The configuration that new connections get.
#[derive(Debug)]
pub(super) struct Acceptor {
    files: Files,
    config: ArcSwap<ServerConfig>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn new(files: Files) -> Result<Arc<Acceptor>, String> {
        let config = files.load()?;
        Ok(Arc::new(Acceptor {
            files,
            config: ArcSwap::new(config),
        }))
    }

    /// The server side of a new connection.
    pub fn accept(&self) -> Option<rustls::Connection> {
        match rustls::ServerConnection::new(self.config.load_full()) {
            Ok(connection) => Some(connection.into()),
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up for a connection");
                None
            }
        }
    }

    /// Reads the files again when they change. A faulty one is reported and the certificate in force stays.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.files.stamps();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = self.files.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            match self.files.load() {
                Ok(config) => {
                    self.config.store(config);
                    tracing::info!("the TLS certificate was read again");
                }
                Err(error) => {
                    tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays")
                }
            }
        }
    }
}

/// How an SMSC is known.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// The name in its certificate; empty: the host of the address.
    name: String,
}

impl TlsClient {
    /// `ca`: authorities that vouch for it; `pinned`: the fingerprint of its certificate, or empty. With both, both must hold.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn new(ca: Option<&Path>, pinned: &str, name: &str) -> Result<TlsClient, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let by_name = match ca {
            Some(path) => Some(
                rustls::client::WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots(path)?),
                    provider(),
                )
                .build()
                .map_err(|e| named(path)(&e))?,
            ),
            None => None,
        };
        let verifier = Known {
            by_name,
            pinned: normal(pinned),
            provider: provider(),
        };
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(TlsClient {
            config: Arc::new(config),
            name: name.into(),
        })
    }

    /// The client side of a connection to `address` (`host:port`).
    ///
    /// # Errors
    /// The host is no name that a certificate could have.
    pub(super) fn connect(&self, address: &str) -> Result<rustls::Connection, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = if self.name.is_empty() {
            host.trim_matches(['[', ']'])
        } else {
            &self.name
        };
        let name = ServerName::try_from(name.to_string()).map_err(|e| format!("tls_name {name}: {e}"))?;
        rustls::ClientConnection::new(Arc::clone(&self.config), name)
            .map(Into::into)
            .map_err(|e| e.to_string())
    }
}

/// Takes a certificate that an authority vouches for, that is the pinned one, or both where both are asked for.
#[derive(Debug)]
struct Known {
    by_name: Option<Arc<rustls::client::WebPkiServerVerifier>>,
    pinned: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pinned.is_empty() && fingerprint(end_entity) != self.pinned {
            return Err(rustls::Error::General(
                "the certificate is not the one of tls_fingerprint".into(),
            ));
        }
        match &self.by_name {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None if self.pinned.is_empty() => Err(rustls::Error::General("no authority is known".into())),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_compared_without_their_spelling() {
        assert_eq!(normal("AB:cd: 01"), "abcd01");
        assert_eq!(
            fingerprint(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
