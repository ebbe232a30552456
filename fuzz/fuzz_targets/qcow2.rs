//! QCOW2 images that somebody made to do harm.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    surface::abort_on_panic();
    surface::images::on_qcow2(data);
});
