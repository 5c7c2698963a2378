//! The rooms of the house and who may import whom. docs/ARCHITECTURE.md says why.

use std::path::Path;

use serde_json::Value;

use super::Report;
use crate::workspace::{items, text};

/// A package of the workspace.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) package: &'static str,
    /// The packages of the workspace that it may import.
    imports: &'static [&'static str],
    /// Whether it is part of the appliance, where a panic takes everything down.
    pub(super) product: bool,
    /// Whether it may contain `unsafe`.
    pub(super) unsafe_allowed: bool,
    /// Whether it must do without the standard library.
    pub(super) bare: bool,
}

const fn product(package: &'static str, imports: &'static [&'static str]) -> Room {
    Room { package, imports, product: true, unsafe_allowed: false, bare: true }
}

const fn machine(package: &'static str, imports: &'static [&'static str]) -> Room {
    Room { package, imports, product: true, unsafe_allowed: true, bare: true }
}

const fn host(package: &'static str, imports: &'static [&'static str]) -> Room {
    Room { package, imports, product: false, unsafe_allowed: false, bare: false }
}

/// Store and protocol import neither each other nor anything above; service imports both; drivers and boot
/// know nothing of them, and boot reports through the drivers' serial port; only the kernel sees all.
const ROOMS: [Room; 12] = [
    machine("datum-boot", &["datum-drivers"]),
    machine("datum-drivers", &[]),
    product("datum-store", &[]),
    product("datum-protocol", &[]),
    product("datum-service", &["datum-store", "datum-protocol"]),
    product(
        "datum-kernel",
        &["datum-boot", "datum-drivers", "datum-store", "datum-protocol", "datum-service"],
    ),
    host("xtask", &[]),
    // A plugin's interface is C.
    Room { package: "datum-counter", imports: &[], product: false, unsafe_allowed: true, bare: false },
    // The program that libFuzzer calls has an exported symbol, which counts as unsafe.
    Room {
        package: "datum-fuzz",
        imports: &["datum-drivers", "datum-store", "datum-service"],
        product: false,
        unsafe_allowed: true,
        bare: false,
    },
    // An allocator is unsafe by its nature.
    Room { package: "datum-scarcity", imports: &[], product: false, unsafe_allowed: true, bare: false },
    host("datum-hosted", &["datum-store", "datum-service"]),
    host(
        "datum-tests",
        &["datum-drivers", "datum-store", "datum-protocol", "datum-service", "datum-scarcity", "xtask"],
    ),
];

pub(super) fn room(package: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.package == package)
}

/// Dependencies of any kind count: a test that needs the room above is in the wrong room.
pub(super) fn check_imports(room: &Room, package: &Value, report: &mut Report) {
    let manifest = Path::new(text(&package["manifest_path"]));
    for dependency in items(&package["dependencies"]) {
        let name = text(&dependency["name"]);
        if ROOMS.iter().any(|other| other.package == name) && !room.imports.contains(&name) {
            report.error(manifest, 0, format!("{} may not import {name}", room.package));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(package: &str, dependency: &str) -> usize {
        let mut report = Report::default();
        let manifest =
            json!({ "manifest_path": "/m", "dependencies": [{ "name": dependency }, { "name": "serde" }] });
        check_imports(room(package).unwrap(), &manifest, &mut report);
        report.errors.len()
    }

    #[test]
    fn the_table_is_what_the_architecture_says() {
        assert_eq!(errors("datum-store", "datum-protocol"), 1);
        assert_eq!(errors("datum-protocol", "datum-store"), 1);
        assert_eq!(errors("datum-drivers", "datum-service"), 1);
        assert_eq!(errors("datum-drivers", "datum-boot"), 1);
        assert_eq!(errors("datum-service", "datum-store"), 0);
        assert_eq!(errors("datum-kernel", "datum-boot"), 0);
    }
}
