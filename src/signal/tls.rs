//! TLS towards a `wss://` server, on ring: the provider is named here, never left to a default
//! that depends on which crates happen to be linked.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::Connector;
use url::Url;

/// How to connect to `url`. Reads the system's root certificates if it is `wss://`; what is wrong
/// with them comes back in words for the operator.
pub(crate) fn connector(url: &Url) -> Result<Connector, String> {
    if url.scheme() != "wss" {
        return Ok(Connector::Plain);
    }
    let mut roots = RootCertStore::empty();
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
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_url_needs_no_certificates() {
        let url = Url::parse("ws://127.0.0.1:1/ws").unwrap();
        assert!(matches!(connector(&url), Ok(Connector::Plain)));
    }

    #[test]
    fn a_wss_url_gets_rustls_on_ring_or_says_what_to_install() {
        let url = Url::parse("wss://tracker.example.com/ws").unwrap();
        match connector(&url) {
            Ok(Connector::Rustls(config)) => {
                let suites = &rustls::crypto::ring::default_provider().cipher_suites;
                assert_eq!(&config.crypto_provider().cipher_suites, suites);
            }
            Ok(_) => panic!("a wss:// url must not be spoken to in the clear"),
            Err(reason) => assert!(reason.contains("ca-certificates")),
        }
    }
}
