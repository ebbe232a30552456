//! The guest-visible surface of every kind in the catalog.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    surface::abort_on_panic();
    surface::attack::on_any_kind(data);
});
