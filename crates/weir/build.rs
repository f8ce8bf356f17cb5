//! Links the program at a fixed address.
//!
//! At a random one, the loader patches 100,000 addresses in each process: 4 MB that no two proxies share.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
