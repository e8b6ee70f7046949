//! What encryption alone costs on this machine, record by record: AES-128-GCM, which needs instructions
//! of the processor, and ChaCha20-Poly1305, which a box without them prefers (`src/peer/setup.rs`).
//!
//! ```text
//! cargo bench --bench cipher
//! qemu-aarch64 -plugin insn.so target/…/cipher --bench --only chacha20 --megabytes 10    # docs/serve.md
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod shared;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use ring::aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use shared::Report;

/// Bytes of a record: what this box puts into a datagram.
const RECORD: usize = 1327;

#[derive(Parser)]
#[command(about = "Ciphers, measured")]
struct Args {
    /// One of them alone.
    #[arg(long)]
    only: Option<Cipher>,
    /// How much is encrypted.
    #[arg(long)]
    megabytes: Option<usize>,
    #[command(flatten)]
    size: shared::Size,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cipher {
    Aes128,
    Chacha20,
}

impl Cipher {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Chacha20 => &CHACHA20_POLY1305,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let tiny = args.size.is_tiny();
    let megabytes = args.megabytes.unwrap_or(if tiny { 1 } else { 1000 });
    let report = Report::default();
    for cipher in Cipher::value_variants() {
        if args.only.as_ref().is_none_or(|only| only == cipher) {
            let seconds = seal(cipher.algorithm(), megabytes * 1_000_000 / RECORD);
            let rate = megabytes as f64 / seconds;
            let name = format!("{:?}", cipher.algorithm());
            report.row(&name, format!("{rate:.0} MB/s"));
        }
    }
    ExitCode::SUCCESS
}

/// Seconds for so many records.
fn seal(algorithm: &'static Algorithm, records: usize) -> f64 {
    let secret = vec![7; algorithm.key_len()];
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &secret).unwrap());
    let mut record = vec![0x47; RECORD];
    let start = Instant::now();
    for number in 0..records as u64 {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut record);
        let _ = std::hint::black_box(tag.unwrap());
    }
    start.elapsed().as_secs_f64()
}
