//! Makes the watch page part of the program if it has been built (`web/dist/`), and does without
//! otherwise: the program builds where there is no Node. `src/http/assets.rs` uses what is written here.

// How a build script speaks to Cargo.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    // Only what exists is named: Cargo takes a missing path as changed, at every build. While
    // there is no `web/dist`, its appearance changes `web`.
    for path in ["web/dist", "web"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
            break;
        }
    }

    let mut files = Vec::new();
    if Path::new("web/dist/index.html").exists() {
        for entry in fs::read_dir("web/dist")? {
            files.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for name in files {
        let path = format!("/web/dist/{name}");
        list += &format!(
            "    ({name:?}, include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),\n"
        );
    }
    list.push_str("]\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("Cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("watch_assets.rs"), list)
}
