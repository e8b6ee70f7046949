//! A name server that is gone.

use std::path::Path;
use std::process::Command;

use crate::origin::Origin;
use crate::support::daemon::BINARY;
use crate::ward::{Patient, Viewers, Ward, script};

const HOST: &str = "origin.edgeseed.test";

/// What the box takes for `/etc/hosts` and `/etc/resolv.conf`: there is a name server in neither.
struct Names<'a>(&'a Path);

impl Names<'_> {
    fn are(&self, hosts: &[&str]) {
        let lines = hosts.iter().map(|host| format!("127.0.0.1 {host}\n"));
        std::fs::write(self.0.join("hosts"), lines.collect::<String>()).unwrap();
        std::fs::write(self.0.join("resolv.conf"), "nameserver 127.37.53.1\n").unwrap();
    }

    /// Runs the box where these are its files.
    fn script(&self) -> String {
        let dir = self.0.display();
        format!(
            "exec unshare --user --map-root-user --mount sh -c 'mount --bind {dir}/hosts /etc/hosts && \
             mount --bind {dir}/resolv.conf /etc/resolv.conf && exec \"$0\" \"$@\"' {BINARY} \"$@\""
        )
    }
}

#[tokio::test]
async fn names_that_cannot_be_resolved_for_a_while() {
    let mut unshare = Command::new("unshare");
    let permitted = unshare
        .args(["--user", "--map-root-user", "--mount", "true"])
        .status();
    if !permitted.is_ok_and(|status| status.success()) {
        eprintln!("NOT RUN: this machine does not allow mount namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let names = Names(dir.path());
    names.are(&[HOST]);
    let mut patients = Vec::new();
    for (channel, host) in [("name-lost", HOST), ("name-unknown", "late.edgeseed.test")] {
        let origin = Origin::start().await;
        origin.misbehave(std::sync::Arc::new(|_, answer| answer.length = None));
        let url = origin.url_at(host);
        patients.push(Patient::new(channel, origin, url));
    }
    let ward = Ward::with(&patients, script(dir.path(), &names.script())).await;
    let [lost, unknown] = &patients[..] else {
        unreachable!()
    };
    lost.is_well(&ward).await;
    names.are(&[]);
    lost.suffers(&ward, Viewers::AreServed).await;
    unknown.suffers(&ward, Viewers::AreRefused).await;
    names.are(&[HOST, "late.edgeseed.test"]);
    lost.recovers(&ward).await;
    unknown.recovers(&ward).await;
    ward.close(&patients).await;
}
