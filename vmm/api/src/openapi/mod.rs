//! The description of the API in the form of OpenAPI 3.0.3, made of the table of endpoints and of the types.
//!
//! Everything in it comes from elsewhere: paths from [`crate::ENDPOINTS`], bodies from the types that read them,
//! devices from the catalog, descriptions from the doc comments of all these. Names of schemas are those of the
//! reference's document. What the server takes is what the document says, also where the reference's own document
//! says less (`payload` can be left out, widths of numbers).

mod dialect;
mod paths;
mod schemas;

use std::sync::OnceLock;

use serde_json::{Value, json};

/// The document, as a value.
#[must_use]
pub fn document() -> Value {
    let schemas = schemas::all();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Cloud Hypervisor API",
            "description": "Asks a virtual machine monitor for things, over HTTP on a Unix socket (--api-socket). The \
                            paths are those of Cloud Hypervisor; what only this monitor has says so.",
            // The version of the interface, not of the monitor: `vmm.ping` tells that.
            "version": "0.3.0",
            "license": {"name": "Apache-2.0 OR BSD-3-Clause"},
        },
        "servers": [{
            "url": "http://localhost/api/v1",
            "description": "The host's name is not looked at.",
        }],
        "paths": paths::all(),
        "components": {"schemas": schemas},
    })
}

/// The document, as text. It is made when it is first asked for.
#[must_use]
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{:#}\n", document()))
}

#[cfg(test)]
mod tests;
