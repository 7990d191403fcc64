//! fleet.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::net::{Link, Plan, Switch};
use crate::failure::{Failure, Result, code};
use crate::spec::diagnose::Source;
use crate::spec::load as vm_toml;
use crate::spec::{Loaded, check};
use crate::state::Store;

/// Most members of a fleet.
const MAX_MEMBERS: u32 = 10_000;

/// A fleet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// What its members have in common.
    pub fleet: Common,
    /// Members with a name and keys of their own; they come in addition to the counted ones, or change one of them.
    #[serde(default)]
    pub member: Vec<Member>,
    /// Virtual switches that it starts.
    #[serde(default)]
    pub switch: Vec<Switch>,
    /// Cables, each between two members.
    #[serde(default)]
    pub link: Vec<Link>,
}

/// What members have in common.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Common {
    /// The vm.toml all are made from; relative to this file. Required unless every member names its own.
    pub template: Option<PathBuf>,
    /// Number of members made from it. Default: 0.
    pub count: u32,
    /// Their names; `{n}` stands for the number. Default: the file's name and `-{n}`.
    pub name: Option<String>,
    /// The first number. Default: 1.
    pub first: Option<u32>,
    /// Members started at a time. Default: twice the host's CPUs.
    pub jobs: Option<usize>,
    /// Give each member copy-on-write files of its own, also in place of those of a template that several share.
    /// Default: true.
    pub cow: Option<bool>,
    /// Write every member's address on the fleet's switches to the /etc/hosts of the others. Default: true.
    pub hosts: Option<bool>,
    /// Keys of vm.toml that all members have.
    pub set: Table,
}

/// One member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Member {
    /// Its name. Required.
    pub name: String,
    /// Its vm.toml. Default: the fleet's.
    pub template: Option<PathBuf>,
    /// Members that must be up first.
    pub after: Vec<String>,
    /// Keys of vm.toml that it has of its own.
    pub set: Table,
}

/// A fleet that was read and checked.
pub struct FleetSpec {
    /// Its members, with what each comes after.
    pub members: Vec<(Loaded, BTreeSet<String>)>,
    /// The switches that its members are on, those of links included.
    pub switches: Vec<Switch>,
    /// Members started at a time.
    pub jobs: Option<usize>,
}

/// Whether a file is a fleet.toml: it has a table `fleet`.
pub fn is_fleet(path: &Path) -> bool {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|t| t.parse::<Table>().ok())
        .is_some_and(|t| t.contains_key("fleet"))
}

/// Reads a fleet and every template.
pub fn load(path: &Path) -> Result<FleetSpec> {
    let path = std::path::absolute(path).map_err(|e| Failure::io("cannot find", path, &e))?;
    let (source, file): (Source, FleetFile) = vm_toml::read(&path)?;
    let complain = |at: &str, text: &str| source.report(source.locate(at), text);
    let common = &file.fleet;
    if common.count > MAX_MEMBERS {
        return Err(complain("fleet.count", &format!("more than {MAX_MEMBERS} members")));
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let pattern = common.name.clone().unwrap_or(format!("{stem}-{{n}}"));
    if common.count > 1 && !pattern.contains("{n}") {
        return Err(complain(
            "fleet.name",
            "several members need different names: expected {n} in it",
        ));
    }
    let first = common.first.unwrap_or(1);
    let numbers = first..first.saturating_add(common.count);
    let mut members: Vec<Member> = numbers
        .map(|n| Member { name: pattern.replace("{n}", &n.to_string()), ..Member::default() })
        .collect();
    for (k, own) in file.member.iter().enumerate() {
        check::name(&own.name).map_err(|e| complain(&format!("member[{k}].name"), &e))?;
        match members.iter_mut().find(|m| m.name == own.name) {
            Some(m) => *m = own.clone(),
            None => members.push(own.clone()),
        }
    }
    if members.is_empty() {
        return Err(complain("fleet", "a fleet without members: expected `count` or [[member]]"));
    }
    let known: BTreeSet<String> = members.iter().map(|m| m.name.clone()).collect();
    let plan = Plan::of(&file, &known).map_err(|(at, text)| complain(&at, &text))?;
    let switches_of = Store::open()?;
    let mut out = Vec::new();
    let mut templates: BTreeMap<PathBuf, (Table, Vec<Source>)> = BTreeMap::new();
    let dir = path.parent().unwrap_or(Path::new("/"));
    for m in &members {
        let at = file.member.iter().position(|own| own.name == m.name);
        let place = at.map_or("fleet".to_owned(), |k| format!("member[{k}]"));
        let written = m.template.as_ref().or(common.template.as_ref());
        let Some(template) = written else {
            return Err(complain(&place, &format!("member \"{}\" has no template", m.name)));
        };
        let template = vm_toml::absolute(template, dir);
        if !templates.contains_key(&template) {
            if !template.is_file() {
                return Err(complain(&place, &format!("there is no file {}", template.display())));
            }
            templates.insert(template.clone(), vm_toml::table(&template)?);
        }
        let Some((table, sources)) = templates.get(&template) else { continue };
        let mut table = table.clone();
        for (set, at) in [(&common.set, "fleet.set".to_owned()), (&m.set, format!("{place}.set"))] {
            let own = vm_toml::settings(set, dir).map_err(|e| complain(&at, &e))?;
            vm_toml::merge(&mut table, own);
        }
        let vm = table.entry("vm").or_insert_with(|| toml::Value::Table(Table::new()));
        if let Some(vm) = vm.as_table_mut() {
            vm.insert("name".into(), m.name.clone().into());
        }
        plan.join(&switches_of, &m.name, &mut table).map_err(|e| complain(&place, &e))?;
        let mut loaded = vm_toml::from_table(table, sources.clone())?;
        let mut after: BTreeSet<String> = m.after.iter().cloned().collect();
        after.extend(loaded.vm.service.after.iter().cloned());
        for a in &m.after {
            if !known.contains(a) {
                return Err(complain(
                    &format!("{place}.after"),
                    &format!("there is no member \"{a}\""),
                ));
            }
        }
        loaded.vm.service.after = after.iter().cloned().collect();
        after.retain(|a| known.contains(a));
        let same = |o: &&Member| o.template.as_ref().or(common.template.as_ref()) == written;
        let shared = members.iter().filter(same).count() > 1;
        if common.cow != Some(false) {
            own_layers(&mut loaded, shared && !m.set.contains_key("disk"))?;
        }
        // A port of the host leads to one machine only.
        if shared && !m.set.contains_key("net") {
            loaded.vm.net.iter_mut().for_each(|n| n.ports.clear());
        }
        // The host name of a template would be every member's.
        let named = |set: &Table| set.get("guest").is_some_and(|g| g.get("hostname").is_some());
        if shared && !named(&m.set) && !named(&common.set) {
            loaded.vm.guest.hostname = None;
        }
        out.push((loaded, after));
    }
    plan.give_addresses(&mut out).map_err(|(at, text)| complain(&at, &text))?;
    // A base image that members write to themselves is the user's.
    if common.cow != Some(false) {
        Plan::name_hosts(&mut out);
    }
    if common.hosts != Some(false) {
        Plan::give_names(&mut out);
    }
    let fleet = FleetSpec { members: out, switches: plan.switches, jobs: common.jobs };
    if let Some(name) = fleet.cycle() {
        let text = format!("member \"{name}\" comes after itself, through others");
        return Err(complain("member", &text));
    }
    Ok(fleet)
}

/// Copy-on-write files in the member's own directory for disks that have none, or one that members would share.
fn own_layers(l: &mut Loaded, shared: bool) -> Result {
    let dir = Store::open()?.dir(&l.name);
    for (k, d) in l.vm.disk.iter_mut().enumerate() {
        if (d.cow.is_none() || shared) && d.readonly != Some(true) && d.shared != Some(true) {
            d.cow = Some(dir.path.join(format!("disk{k}.cow")));
        }
    }
    Ok(())
}

impl FleetSpec {
    /// A member that comes after itself.
    fn cycle(&self) -> Option<String> {
        let mut left: BTreeMap<&str, BTreeSet<&str>> = self
            .members
            .iter()
            .map(|(l, after)| (l.name.as_str(), after.iter().map(String::as_str).collect()))
            .collect();
        loop {
            let free: Vec<&str> =
                left.iter().filter(|(_, a)| a.is_empty()).map(|(n, _)| *n).collect();
            if free.is_empty() {
                return left.keys().next().map(|n| (*n).to_owned());
            }
            for n in free {
                left.remove(n);
                left.values_mut().for_each(|a| {
                    a.remove(n);
                });
            }
        }
    }

    /// Only these members; all when none is named. Status 4 for one that is not there.
    pub fn only(mut self, names: &[String]) -> Result<FleetSpec> {
        for n in names {
            if !self.members.iter().any(|(l, _)| l.name == *n) {
                return Err(Failure::new(
                    code::NO_INSTANCE,
                    format!("the fleet has no member \"{n}\""),
                ));
            }
        }
        if !names.is_empty() {
            self.members.retain(|(l, _)| names.contains(&l.name));
            let kept: BTreeSet<String> = self.members.iter().map(|(l, _)| l.name.clone()).collect();
            self.members.iter_mut().for_each(|(_, a)| a.retain(|n| kept.contains(n)));
            let joined: BTreeSet<&String> = self
                .members
                .iter()
                .flat_map(|(l, _)| l.vm.net.iter().filter_map(|n| n.switch.as_ref()))
                .collect();
            self.switches.retain(|s| joined.contains(&s.name));
        }
        Ok(self)
    }
}
