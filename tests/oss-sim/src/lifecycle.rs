//! Lifecycle rules and their daily run at 08:00 Beijing time, which is midnight UTC. The run is driven by the virtual
//! clock: a jump over many days applies every action at the run in which it would have happened.

use crate::clock::{DAY, parse_iso};
use crate::error::OssError;
use crate::ledger::Code;
use crate::model::{Bucket, Class, Kind, Upload, Version, Versioning};
use crate::persist::Record;
use crate::sim::Sim;
use crate::store::Store;
use crate::xml::{self, Node};
use serde::{Deserialize, Serialize};

/// Most rules of a bucket.
const MAX_RULES: usize = 1000;

/// When an action is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Days after Last-Modified (or after becoming noncurrent, or after initiation).
    Days(u64),
    /// At once, for what is older than this time.
    Before(u64),
}

impl When {
    /// The time from which the action is due for something of time `at`.
    fn due(self, at: u64) -> Option<u64> {
        match self {
            When::Days(days) => Some(at.saturating_add(days.saturating_mul(DAY))),
            When::Before(date) => (at < date).then_some(at),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    id: String,
    prefix: String,
    enabled: bool,
    tags: Vec<(String, String)>,
    larger_than: Option<u64>,
    smaller_than: Option<u64>,
    /// What the rule leaves alone although the rest of it covers it.
    #[serde(default)]
    exceptions: Vec<Exception>,
    transitions: Vec<(When, Class)>,
    expiration: Option<When>,
    expired_marker: bool,
    abort: Option<When>,
    noncurrent_transitions: Vec<(u64, Class)>,
    noncurrent_expiration: Option<u64>,
}

/// A `Not` of a rule's filter: objects below this prefix that have this tag.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Exception {
    prefix: String,
    tag: Option<(String, String)>,
}

impl Rule {
    fn covers(&self, key: &str, version: &Version) -> bool {
        self.enabled
            && key.starts_with(&self.prefix)
            && self.tags.iter().all(|tag| version.tags.contains(tag))
            && self.larger_than.is_none_or(|n| version.size > n)
            && self.smaller_than.is_none_or(|n| version.size < n)
            && !self.exceptions.iter().any(|not| not.covers(key, version))
    }
}

impl Exception {
    fn covers(&self, key: &str, version: &Version) -> bool {
        key.starts_with(&self.prefix) && self.tag.as_ref().is_none_or(|tag| version.tags.contains(tag))
    }
}

/// Reads and checks a configuration.
///
/// # Errors
/// 400 MalformedXML, InvalidArgument, or the EC of the combination that is not allowed.
pub fn parse(document: &[u8]) -> Result<Vec<Rule>, OssError> {
    let root = xml::parse(document).map_err(|e| OssError::malformed_xml(&e))?;
    let rules: Vec<&Node> = root.all("Rule").collect();
    if root.name != "LifecycleConfiguration" || rules.is_empty() || rules.len() > MAX_RULES {
        return Err(OssError::malformed_xml("LifecycleConfiguration must hold 1 to 1000 Rule nodes"));
    }
    let mut out: Vec<Rule> = Vec::with_capacity(rules.len());
    for node in rules {
        let mut rule = parse_rule(node)?;
        if rule.id.is_empty() {
            rule.id = format!("rule-{}", out.len() + 1);
        }
        if out.iter().any(|r| r.id == rule.id) {
            return Err(OssError::invalid_argument("Rule ID must be unique.", "ID", &rule.id));
        }
        out.push(rule);
    }
    Ok(out)
}

fn parse_rule(node: &Node) -> Result<Rule, OssError> {
    let text = |name: &str| node.text_of(name).unwrap_or_default().to_string();
    let mut rule = Rule { id: text("ID"), prefix: text("Prefix"), ..Rule::default() };
    rule.enabled = match text("Status").trim() {
        "Enabled" => true,
        "Disabled" => false,
        other => return Err(OssError::malformed_xml(&format!("Status {other:?} is neither Enabled nor Disabled"))),
    };
    rule.tags = node.all("Tag").map(tag_of).collect();
    if let Some(filter) = node.child("Filter") {
        rule.larger_than = number(filter, "ObjectSizeGreaterThan")?;
        rule.smaller_than = number(filter, "ObjectSizeLessThan")?;
        rule.exceptions = filter.all("Not").map(exception).collect::<Result<_, _>>()?;
    }
    for transition in node.all("Transition") {
        let class = class_of(transition)?;
        if by_access_time(transition) {
            if class != Class::IA {
                return Err(OssError::invalid_argument(
                    "Only IA is allowed with IsAccessTime.",
                    "StorageClass",
                    class.name(),
                )
                .ec("0014-00000051"));
            }
            return Err(OssError::not_simulated("Transition by IsAccessTime"));
        }
        rule.transitions.push((when(transition)?, class));
    }
    if let Some(expiration) = node.child("Expiration") {
        rule.expired_marker = expiration.text_of("ExpiredObjectDeleteMarker").is_some_and(|t| t.trim() == "true");
        if !rule.expired_marker {
            rule.expiration = Some(when(expiration)?);
        }
    }
    rule.abort = node.child("AbortMultipartUpload").map(when).transpose()?;
    for transition in node.all("NoncurrentVersionTransition") {
        if by_access_time(transition) {
            return Err(OssError::not_simulated("NoncurrentVersionTransition by IsAccessTime"));
        }
        rule.noncurrent_transitions.push((days(transition, "NoncurrentDays")?, class_of(transition)?));
    }
    if let Some(expiration) = node.child("NoncurrentVersionExpiration") {
        rule.noncurrent_expiration = Some(days(expiration, "NoncurrentDays")?);
    }
    check_rule(&rule)?;
    Ok(rule)
}

fn by_access_time(transition: &Node) -> bool {
    transition.text_of("IsAccessTime").is_some_and(|t| t.trim() == "true")
}

fn tag_of(node: &Node) -> (String, String) {
    let part = |name: &str| node.text_of(name).unwrap_or_default().to_string();
    (part("Key"), part("Value"))
}

fn exception(node: &Node) -> Result<Exception, OssError> {
    let prefix = node.text_of("Prefix").map(str::to_string);
    let tag = node.child("Tag").map(tag_of);
    if prefix.is_none() && tag.is_none() {
        return Err(OssError::malformed_xml("a Not needs a Prefix or a Tag"));
    }
    Ok(Exception { prefix: prefix.unwrap_or_default(), tag })
}

fn number(node: &Node, name: &str) -> Result<Option<u64>, OssError> {
    let Some(text) = node.text_of(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| OssError::invalid_argument("Not a number.", name, text))
}

fn days(node: &Node, name: &str) -> Result<u64, OssError> {
    number(node, name)?.filter(|d| *d > 0).ok_or_else(|| {
        OssError::invalid_argument("Days must be a positive integer.", name, node.text_of(name).unwrap_or_default())
    })
}

fn when(node: &Node) -> Result<When, OssError> {
    match (node.text_of("Days"), node.text_of("CreatedBeforeDate")) {
        (Some(_), None) => Ok(When::Days(days(node, "Days")?)),
        (None, Some(date)) => parse_iso(date)
            .filter(|at| at % DAY == 0)
            .map(When::Before)
            .ok_or_else(|| OssError::invalid_argument("The date must be midnight UTC.", "CreatedBeforeDate", date)),
        _ => Err(OssError::malformed_xml("an action needs either Days or CreatedBeforeDate").ec("0014-00000080")),
    }
}

fn class_of(node: &Node) -> Result<Class, OssError> {
    let name = node.text_of("StorageClass").unwrap_or_default().trim();
    Class::parse(name)
        .filter(|c| *c != Class::Standard)
        .ok_or_else(|| OssError::invalid_argument("The class is not one to convert to.", "StorageClass", name))
}

/// Periods must rise with coldness, days and dates must not be mixed, and uploads have neither tags nor exceptions.
fn check_rule(rule: &Rule) -> Result<(), OssError> {
    if rule.abort.is_some() && !(rule.tags.is_empty() && rule.exceptions.is_empty()) {
        return Err(OssError::invalid_argument(
            "AbortMultipartUpload cannot be combined with Tag or Not in one rule.",
            "AbortMultipartUpload",
            &rule.id,
        ));
    }
    let mut chain = rule.transitions.clone();
    chain.sort_by_key(|(_, class)| *class);
    let is_days = |when: &When| matches!(when, When::Days(_));
    let all = || chain.iter().map(|(w, _)| w).chain(rule.expiration.iter());
    if all().any(is_days) && !all().all(is_days) {
        return Err(OssError::malformed_xml("Days and CreatedBeforeDate are mixed").ec("0014-00000080"));
    }
    let periods: Vec<u64> = all().filter_map(|w| if let When::Days(d) = w { Some(*d) } else { None }).collect();
    if periods.windows(2).any(|w| w[0] >= w[1]) || chain.windows(2).any(|w| w[0].1 == w[1].1) {
        return Err(OssError::invalid_argument(
            "Days in the Transition and Expiration actions must rise from warmer to colder classes.",
            "Days",
            &rule.id,
        ));
    }
    let nothing = rule.transitions.is_empty()
        && rule.expiration.is_none()
        && !rule.expired_marker
        && rule.abort.is_none()
        && rule.noncurrent_transitions.is_empty()
        && rule.noncurrent_expiration.is_none();
    if nothing { Err(OssError::malformed_xml("a Rule needs an action")) } else { Ok(()) }
}

/// What a run does to one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Convert(Class),
    // After Convert: at the same run the deletion wins.
    Delete,
}

/// Where a version stands among the versions of its key.
#[derive(Debug, Clone, Copy)]
struct Place {
    current: bool,
    alone: bool,
    /// When the next version replaced it.
    replaced: u64,
}

/// The next action on a version: the run (a midnight) and what.
fn next(rules: &[Rule], key: &str, version: &Version, place: Place, after: u64) -> Option<(u64, Action)> {
    let mut best: Option<(u64, Action)> = None;
    let mut offer = |due: Option<u64>, action: Action| {
        let Some(due) = due else { return };
        // Whatever the rule says, a run leaves alone what was written less than 24 hours before its start.
        let due = due.max(version.modified.saturating_add(DAY));
        let run = due.div_ceil(DAY).saturating_mul(DAY).max(after + DAY);
        let better = best.is_none_or(|(r, a)| run < r || (run == r && action > a));
        if better {
            best = Some((run, action));
        }
    };
    for rule in rules.iter().filter(|r| r.covers(key, version)) {
        if version.delete_marker {
            if rule.expired_marker && place.alone {
                offer(Some(version.modified), Action::Delete);
            }
            if let Some(days) = rule.noncurrent_expiration.filter(|_| !place.current) {
                offer(When::Days(days).due(place.replaced), Action::Delete);
            }
            continue;
        }
        let convertible = |class: Class| {
            version.class < class
                && (version.kind != Kind::Appendable && version.kind != Kind::Symlink || class < Class::ColdArchive)
        };
        if place.current {
            for (when, class) in rule.transitions.iter().filter(|(_, c)| convertible(*c)) {
                offer(when.due(version.modified), Action::Convert(*class));
            }
            if let Some(when) = rule.expiration {
                offer(when.due(version.modified), Action::Delete);
            }
        } else {
            for (days, class) in rule.noncurrent_transitions.iter().filter(|(_, c)| convertible(*c)) {
                offer(When::Days(*days).due(place.replaced), Action::Convert(*class));
            }
            if let Some(days) = rule.noncurrent_expiration {
                offer(When::Days(days).due(place.replaced), Action::Delete);
            }
        }
    }
    best
}

/// Runs everything that became due since the last run. Cheap when no midnight has passed.
pub fn catch_up(sim: &Sim, now: u64) {
    let last = now / DAY * DAY;
    let mut store = sim.store();
    let after = store.lifecycle_ran;
    if after >= last {
        return;
    }
    for (name, rules) in store.rules() {
        run_bucket(&mut store, &name, &rules, (after, last));
    }
    store.lifecycle_ran = last;
    store.write(&Record::LifecycleRan(last));
}

fn run_bucket(store: &mut Store, name: &str, rules: &[Rule], (after, last): (u64, u64)) {
    let Ok(bucket) = store.bucket(name) else { return };
    let keys: Vec<String> =
        bucket.objects.iter().filter(|(key, v)| due_in(rules, key, v, (after, last))).map(|(k, _)| k.clone()).collect();
    let uploads: Vec<(String, String, u64)> = bucket
        .uploads
        .iter()
        .filter_map(|((k, i), u)| Some((k.clone(), i.clone(), abort_at(rules, k, u, after)?)))
        .collect();
    for key in keys {
        run_key(store, name, &key, rules, (after, last));
    }
    for (key, id, at) in uploads.into_iter().filter(|(_, _, at)| *at <= last) {
        // It exists: the lock has been held since it was listed.
        let _ = store.close_upload(name, &key, &id, at);
    }
}

fn abort_at(rules: &[Rule], key: &str, upload: &Upload, after: u64) -> Option<u64> {
    let due = |rule: &Rule| rule.abort.filter(|_| rule.enabled && key.starts_with(&rule.prefix))?.due(upload.initiated);
    let due = rules.iter().filter_map(due).min()?;
    Some(due.div_ceil(DAY).saturating_mul(DAY).max(after + DAY))
}

fn place(versions: &[Version], i: usize) -> Place {
    let replaced = versions.get(i + 1).map_or(0, |v| v.modified);
    Place { current: i + 1 == versions.len(), alone: versions.len() == 1, replaced }
}

fn due_in(rules: &[Rule], key: &str, versions: &[Version], (after, last): (u64, u64)) -> bool {
    let due = |(i, v): (usize, &Version)| next(rules, key, v, place(versions, i), after);
    versions.iter().enumerate().filter_map(due).any(|(run, _)| run <= last)
}

/// Applies all actions on the versions of a key in the order of their runs.
fn run_key(store: &mut Store, name: &str, key: &str, rules: &[Rule], (after, last): (u64, u64)) {
    let mut after = after;
    loop {
        let versions = store.bucket(name).ok().and_then(|b: &Bucket| b.objects.get(key));
        let Some(versions) = versions else { return };
        let each = versions.iter().enumerate();
        let due = each.filter_map(|(i, v)| {
            next(rules, key, v, place(versions, i), after).map(|(r, a)| (r, a, v, place(versions, i)))
        });
        let Some((run, action, version, place)) = due.min_by_key(|(run, ..)| *run).filter(|(run, ..)| *run <= last)
        else {
            return;
        };
        let version = version.clone();
        match action {
            Action::Convert(class) => convert(store, name, key, &version, (class, run)),
            Action::Delete => expire(store, name, key, &version, (place.current, run)),
        }
        // Other versions may be due at the same run, so the next look begins just before it.
        after = after.max(run - DAY);
    }
}

/// Changes the class without touching Last-Modified or the tag. Billed as one PUT of the destination class.
fn convert(store: &mut Store, bucket: &str, key: &str, version: &Version, (class, at): (Class, u64)) {
    store.settle_version(version, at);
    store.charge(Code::PutRequest, class, None, 1);
    // It exists: the lock has been held since it was read.
    let _ = store.update(bucket, key, version.id, |v| {
        v.class = class;
        v.transition = at;
        v.restore = None;
    });
}

fn expire(store: &mut Store, bucket: &str, key: &str, version: &Version, (current, at): (bool, u64)) {
    let versioning = store.bucket(bucket).ok().and_then(|b| b.meta.versioning);
    let mark = current && !version.delete_marker && versioning.is_some();
    if !mark || versioning == Some(Versioning::Suspended) {
        let id = if mark { 0 } else { version.id };
        // Either it exists, or there was nothing to remove.
        let _ = store.remove(bucket, key, id, at);
    }
    if mark {
        let marker = Version {
            delete_marker: true,
            size: 0,
            class: Class::Standard,
            modified: at,
            transition: 0,
            restore: None,
            body: crate::blob::Body::default(),
            ..version.clone()
        };
        let _ = store.insert(bucket, key, marker, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(inner: &str) -> Result<Vec<Rule>, OssError> {
        parse(format!("<LifecycleConfiguration><Rule>{inner}</Rule></LifecycleConfiguration>").as_bytes())
    }

    #[test]
    fn periods_must_rise_and_forms_must_not_be_mixed() {
        let head = "<ID>a</ID><Prefix>x/</Prefix><Status>Enabled</Status>";
        let t = |d: u64, c: &str| format!("<Transition><Days>{d}</Days><StorageClass>{c}</StorageClass></Transition>");
        assert!(rules(&format!("{head}{}{}", t(30, "IA"), t(60, "Archive"))).is_ok());
        assert!(rules(&format!("{head}{}{}", t(60, "IA"), t(30, "Archive"))).is_err());
        assert!(rules(&format!("{head}{}", t(0, "IA"))).is_err());
        assert!(rules(&format!("{head}{}", t(1, "Standard"))).is_err());
        let mixed = format!(
            "{head}{}<Expiration><CreatedBeforeDate>2030-01-01T00:00:00.000Z</CreatedBeforeDate></Expiration>",
            t(3, "IA")
        );
        assert_eq!(rules(&mixed).unwrap_err().ec, "0014-00000080");
        assert!(rules(head).is_err(), "a rule without an action");
    }

    fn written(at: u64) -> Version {
        let spec = crate::objects::Spec { class: Class::Standard, headers: Vec::new(), tags: Vec::new() };
        let body = crate::blob::Body::default();
        crate::objects::new_version(spec, Kind::Normal, body, (String::new(), 0), at)
    }

    #[test]
    fn what_a_rule_makes_an_exception_of_is_left_alone() {
        let rule = |not: &str| {
            rules(&format!(
                "<Prefix>x/</Prefix><Status>Enabled</Status><Filter><Not>{not}</Not></Filter>\
                 <Expiration><Days>1</Days></Expiration>"
            ))
        };
        let (prefix, tag) = ("<Prefix>x/k</Prefix>", "<Tag><Key>keep</Key><Value>1</Value></Tag>");
        let plain = written(0);
        let tagged = Version { tags: vec![("keep".into(), "1".into())], ..written(0) };
        // Covered: an untagged and a tagged object below the exception's prefix, and a tagged one beside it.
        for (not, covered) in [
            (prefix.to_string(), [false, false, true]),
            (tag.to_string(), [true, false, false]),
            (format!("{prefix}{tag}"), [true, false, true]),
        ] {
            let rule = rule(&not).unwrap().remove(0);
            let found = [rule.covers("x/k1", &plain), rule.covers("x/k1", &tagged), rule.covers("x/z", &tagged)];
            assert_eq!(found, covered, "{not}");
        }
        assert!(rule("").is_err(), "an exception of nothing");
    }

    #[test]
    fn unfinished_uploads_have_no_tags_and_so_no_rule_that_asks_for_them() {
        let abort =
            "<Prefix>x/</Prefix><Status>Enabled</Status><AbortMultipartUpload><Days>1</Days></AbortMultipartUpload>";
        assert!(rules(abort).is_ok());
        for more in [
            "<Tag><Key>k</Key><Value>v</Value></Tag>",
            "<Filter><Not><Prefix>x/y</Prefix></Not></Filter>",
            "<Filter><Not><Prefix>x/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></Not></Filter>",
        ] {
            assert_eq!(rules(&format!("{abort}{more}")).unwrap_err().code, "InvalidArgument", "{more}");
        }
    }

    #[test]
    fn an_action_happens_at_the_first_midnight_after_it_is_due() {
        let rule = rules("<Prefix/><Status>Enabled</Status><Transition><Days>1</Days><StorageClass>IA</StorageClass></Transition><Expiration><Days>3</Days></Expiration>").unwrap();
        let mut version = written(10 * DAY + 5);
        let place = Place { current: true, alone: true, replaced: 0 };
        assert_eq!(next(&rule, "k", &version, place, 10 * DAY), Some((12 * DAY, Action::Convert(Class::IA))));
        version.class = Class::IA;
        assert_eq!(next(&rule, "k", &version, place, 12 * DAY), Some((14 * DAY, Action::Delete)));
    }

    #[test]
    fn a_rule_by_date_leaves_alone_what_is_younger_than_a_day() {
        let rule = rules("<Prefix/><Status>Enabled</Status><Transition><CreatedBeforeDate>2030-01-01T00:00:00.000Z</CreatedBeforeDate><StorageClass>IA</StorageClass></Transition>").unwrap();
        let version = written(11 * DAY - 1);
        let place = Place { current: true, alone: true, replaced: 0 };
        assert_eq!(next(&rule, "k", &version, place, 10 * DAY), Some((12 * DAY, Action::Convert(Class::IA))));
    }
}
