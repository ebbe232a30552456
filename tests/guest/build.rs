//! Links the guest as a program that stands alone.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=src/link.ld");
    println!("cargo:rerun-if-changed=src/start.s");
    for word in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg={word}");
    }
    println!("cargo:rustc-link-arg=-Wl,--build-id=none,--gc-sections,-z,noexecstack");
    println!("cargo:rustc-link-arg=-T{folder}/src/link.ld");
}
