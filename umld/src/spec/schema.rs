//! The JSON Schema of vm.toml, for editors.

use super::vm::VmFile;

/// The schema as JSON text.
pub fn json() -> String {
    let schema = schemars::schema_for!(VmFile);
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}
