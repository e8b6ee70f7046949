//! Origins that cannot be trusted.

use futures_util::future::join_all;

use crate::origin::Origin;
use crate::support::daemon::BINARY;
use crate::support::foreign::Authority;
use crate::ward::{Patient, Viewers, Ward, script};

#[tokio::test]
async fn an_origin_whose_certificate_is_not_good_is_not_listened_to() {
    let dir = tempfile::tempdir().unwrap();
    let (trusted, stranger) = (Authority::new(), Authority::new());
    let bundle = dir.path().join("ca.pem");
    trusted.write(&bundle);
    let start = [
        ("expired-certificate", trusted.expired_server("127.0.0.1")),
        ("unknown-authority", stranger.server("127.0.0.1")),
        ("another-name", trusted.server("cdn.example.com")),
    ];
    let mut patients = Vec::new();
    for (channel, tls) in start {
        let origin = Origin::start_with(Some(tls)).await;
        let url = origin.url();
        patients.push(Patient::new(channel, origin, url));
    }
    let exec = format!("SSL_CERT_FILE={} exec {BINARY} \"$@\"", bundle.display());
    let ward = Ward::with(&patients, script(dir.path(), &exec)).await;
    let courses = patients.iter().map(async |patient| {
        patient.suffers(&ward, Viewers::AreRefused).await;
        patient.origin.present(trusted.server("127.0.0.1"));
        patient.recovers(&ward).await;
    });
    join_all(courses).await;
    ward.close(&patients).await;
}
