//! The dependency policy of deny.toml, in cargo-deny's own format: licences, sources, and one version of each
//! crate.
//!
//! cargo-deny takes minutes to build on a fresh machine. What this workspace asks of it is a look at
//! `cargo metadata`, so that is done here; whoever has cargo-deny runs it on the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use spdx::{Expression, LicenseReq};
use toml::Table;

use super::Report;
use crate::workspace::{items, text};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What deny.toml says.
struct Policy {
    licences: BTreeSet<String>,
    /// Crates that may be there in several versions.
    several_versions: BTreeSet<String>,
}

/// Checks every package of the dependency graph.
pub(super) fn check(metadata: &Value, policy: &Path, report: &mut Report) -> Result<()> {
    let rules = Policy::parse(&fs::read_to_string(policy)?)?;
    let used: BTreeSet<_> = items(&metadata["resolve"]["nodes"]).map(|node| text(&node["id"])).collect();
    let foreign = items(&metadata["packages"])
        .filter(|package| used.contains(text(&package["id"])) && !package["source"].is_null());
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in foreign {
        versions.entry(text(&package["name"])).or_default().push(text(&package["version"]));
        if let Err(error) = rules.check_package(package) {
            let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
            report.error(policy, 0, format!("{name}: {error}"));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        if !rules.several_versions.contains(*name) {
            let message = format!(
                "{name} is there as {}: agree on one, or skip it with a reason",
                versions.join(" and ")
            );
            report.error(policy, 0, message);
        }
    }
    Ok(())
}

impl Policy {
    fn parse(file: &str) -> Result<Policy> {
        let file: Table = file.parse()?;
        let licences = strings(&file, "licenses", "allow")?;
        let several_versions = strings(&file, "bans", "skip")?;
        Ok(Policy { licences, several_versions })
    }

    fn check_package(&self, package: &Value) -> Result<()> {
        let source = text(&package["source"]);
        if source != CRATES_IO {
            return Err(anyhow!("comes from {source}: only crates.io is allowed"));
        }
        let licence = package["license"].as_str().context("names no licence")?;
        let expression =
            Expression::parse_mode(licence, spdx::ParseMode::LAX).map_err(|error| anyhow!("{error}"))?;
        if !expression.evaluate(|required| self.allows(required)) {
            return Err(anyhow!("the licence {licence} is not allowed"));
        }
        Ok(())
    }

    fn allows(&self, required: &LicenseReq) -> bool {
        self.licences.contains(&required.to_string())
    }
}

/// An array of `[table]`: texts, or tables that name a `crate`.
fn strings(file: &Table, table: &str, key: &str) -> Result<BTreeSet<String>> {
    let missing = || format!("[{table}] {key} is missing");
    let array = file.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
    let name = |value: &toml::Value| value.get("crate").unwrap_or(value).as_str().map(str::to_owned);
    array.with_context(missing)?.iter().map(|value| name(value).with_context(missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const POLICY: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0 WITH LLVM-exception\"]\n\
                          [bans]\nskip = [{ crate = \"old\", reason = \"r\" }]\n";

    fn verdict(license: &str, source: &str) -> Result<()> {
        let policy = Policy::parse(POLICY).unwrap();
        policy.check_package(&json!({ "license": license, "source": source }))
    }

    #[test]
    fn licences_are_weighed_as_expressions() {
        for allowed in
            ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "BSL-1.0 OR Apache-2.0 WITH LLVM-exception"]
        {
            assert!(verdict(allowed, CRATES_IO).is_ok(), "{allowed}");
        }
        for refused in ["GPL-3.0", "MIT AND GPL-2.0", "Apache-2.0", "nonsense"] {
            assert!(verdict(refused, CRATES_IO).is_err(), "{refused}");
        }
    }

    #[test]
    fn crates_come_from_one_place() {
        assert!(verdict("MIT", "git+https://example.org/x").is_err());
    }

    #[test]
    fn a_second_version_needs_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("deny.toml");
        fs::write(&policy, POLICY).unwrap();
        let package = |name: &str, version: &str| json!({ "id": format!("{name}{version}"), "name": name, "version": version, "license": "MIT", "source": CRATES_IO });
        let packages = [package("a", "1"), package("a", "2"), package("old", "1"), package("old", "2")];
        let nodes: Vec<_> = packages.iter().map(|package| json!({ "id": package["id"] })).collect();
        let mut report = Report::default();
        check(&json!({ "packages": packages, "resolve": { "nodes": nodes } }), &policy, &mut report).unwrap();
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    }
}
