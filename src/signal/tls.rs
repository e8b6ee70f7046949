//! TLS towards a `wss://` server and of our own server, on ring: the provider is named here, never
//! left to a default that depends on which crates happen to be linked.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::Connector;
use tokio_tungstenite::tungstenite;
use url::Url;

use super::server::SignalError;
use crate::config::TlsFiles;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How to connect to `url`. If it is `wss://`, its certificate has to come from `ca`, and from the
/// system's root certificates only if `ca` is empty: who names a CA has a server of their own, which
/// none of the public ones should be able to impersonate. What is wrong comes back in words for the
/// operator.
pub(super) fn connector(url: &Url, ca: &[CertificateDer<'static>]) -> Result<Connector, String> {
    if url.scheme() != "wss" {
        return Ok(Connector::Plain);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if !ca.is_empty() {
        roots.add_parsable_certificates(ca.iter().cloned());
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(format!(
            "no root certificates on this machine (install the package ca-certificates){}",
            match found.errors.first() {
                Some(error) => format!(": {error}"),
                None => String::new(),
            }
        ));
    }
    Ok(roots)
}

/// Why there is no connection, and where it is a matter of trust, what to do about it.
pub(super) fn explain(error: &tungstenite::Error) -> String {
    let rustls = match error {
        tungstenite::Error::Io(io) => io.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    };
    let Some(rustls::Error::InvalidCertificate(invalid)) = rustls else {
        return error.to_string();
    };
    let advice = match invalid {
        // The latter is a CA of the same name with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it is signed by nobody whom this box trusts; name the CA's certificate in [signal] ca"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "is this box's clock right?",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name; use that one in [signal] url"
        }
        _ => "have the server's certificate mended",
    };
    format!("its certificate is not valid ({invalid}): {advice}")
}

/// How our server speaks TLS: with the chain and the key of these files.
///
/// # Errors
/// [`SignalError::Unreadable`] and [`SignalError::Certificate`], with the file that is to be mended.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, SignalError> {
    let chain = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| unusable(&files.certificate, &error.to_string()))?;
    if chain.is_empty() {
        let problem = "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)";
        return Err(unusable(&files.certificate, problem));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(
            &files.key,
            "it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)",
        ),
        other => unusable(&files.key, &other.to_string()),
    })?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&files.certificate, &error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let of = files.certificate.display();
                unusable(&files.key, &format!("it is not the key of {of}"))
            }
            other => unusable(&files.certificate, &other.to_string()),
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, SignalError> {
    std::fs::read(path).map_err(|source| SignalError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn unusable(path: &Path, problem: &str) -> SignalError {
    SignalError::Certificate {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_url_needs_no_certificates() {
        let url = Url::parse("ws://127.0.0.1:1/ws").unwrap();
        assert!(matches!(connector(&url, &[]), Ok(Connector::Plain)));
    }

    #[test]
    fn a_wss_url_gets_rustls_on_ring_or_says_what_to_install() {
        let url = Url::parse("wss://tracker.example.com/ws").unwrap();
        match connector(&url, &[]) {
            Ok(Connector::Rustls(config)) => {
                let suites = &rustls::crypto::ring::default_provider().cipher_suites;
                assert_eq!(&config.crypto_provider().cipher_suites, suites);
            }
            Ok(_) => panic!("a wss:// url must not be spoken to in the clear"),
            Err(reason) => assert!(reason.contains("ca-certificates")),
        }
    }
}
