//! The registers of virtio over PCI.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    surface::abort_on_panic();
    surface::attack::on_transport(data);
});
