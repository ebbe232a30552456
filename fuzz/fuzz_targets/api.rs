//! What a client of the API sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    surface::abort_on_panic();
    surface::requests::on_api(data);
});
