//! The decision, compared with an evaluator of its own: it was written from the words of `docs/access.md`, reads policies as plain
//! JSON and shares nothing with what it judges but names.

use super::acl::{Acl, Grant, Grantee, Permission};
use super::decide::{BucketFacts, Decision, ObjectFacts, decide};
use super::identity::{Account, Caller, Identity};
use super::policy::{Ask, Context, Key, PolicyDocument};
use super::settings::{Ownership, OwnershipControls, PublicAccessBlock};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// Condition keys and their values.
#[derive(Debug, Clone)]
struct Keys(Vec<(&'static str, String)>);

impl Keys {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }
}

impl Context for Keys {
    fn values(&self, key: &Key) -> Option<Vec<String>> {
        self.get(&key.to_string()).map(|value| vec![value.to_owned()])
    }
}

#[derive(Debug, Clone)]
struct Who {
    /// `None`: not signed.
    account: Option<&'static str>,
    user: Option<&'static str>,
    own: Vec<Value>,
    session: Option<Value>,
}

/// Who is granted what.
type Grants = Vec<(&'static str, Permission)>;

#[derive(Debug, Clone)]
struct Case {
    who: Who,
    policy: Option<Value>,
    ownership: Ownership,
    bucket_acl: Option<Grants>,
    block: PublicAccessBlock,
    object: Option<(&'static str, Option<Grants>)>,
    action: &'static str,
    key: &'static str,
    keys: Keys,
}

const OWNER: &str = "own";
const OTHER: &str = "other";

fn arn_of(account: &str, user: Option<&str>) -> String {
    let number = Account::named(account).number();
    user.map_or(format!("arn:aws:iam::{number}:root"), |user| format!("arn:aws:iam::{number}:user/{user}"))
}

// ---- the naive evaluator ----

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Means {
    Not,
    ByAccount,
    ByName,
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(list).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => glob(&pattern[1..], text) || (!text.is_empty() && glob(pattern, &text[1..])),
        (Some(b'?'), Some(_)) => glob(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) if p == t => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

/// No value has a wildcard in it here, so that putting it into the pattern is enough.
fn filled(pattern: &str, keys: &Keys) -> Option<String> {
    match pattern.find("${aws:username}") {
        None => Some(pattern.to_owned()),
        Some(_) => keys.get("aws:username").map(|name| pattern.replace("${aws:username}", name)),
    }
}

fn address(text: &str) -> u32 {
    text.split('.').fold(0, |sum, byte| sum * 256 + byte.parse::<u32>().unwrap())
}

fn in_network(value: &str, network: &str) -> bool {
    let (base, bits) = network.split_once('/').unwrap_or((network, "32"));
    let drop = 32 - bits.parse::<u32>().unwrap();
    u64::from(address(value)) >> drop == u64::from(address(base)) >> drop
}

fn condition_holds(operator: &str, key: &str, wanted: &Value, keys: &Keys) -> bool {
    let wanted = list(wanted);
    let found = keys.get(key);
    if operator == "Null" {
        return wanted.contains(&found.is_none().to_string());
    }
    let (any, operator) = match operator.strip_prefix("ForAnyValue:") {
        Some(rest) => (true, rest),
        None => (false, operator),
    };
    let (exists, operator) = match operator.strip_suffix("IfExists") {
        Some(rest) => (true, rest),
        None => (false, operator),
    };
    let Some(found) = found else { return exists || (operator.contains("Not") && !any) };
    let one = |wanted: &String| match operator {
        "StringEquals" | "StringNotEquals" => wanted == found,
        "StringLike" | "StringNotLike" => glob(wanted.as_bytes(), found.as_bytes()),
        "Bool" => wanted == found,
        "IpAddress" | "NotIpAddress" => in_network(found, wanted),
        "NumericLessThan" => found.parse::<i64>().unwrap() < wanted.parse::<i64>().unwrap(),
        other => panic!("{other}"),
    };
    wanted.iter().any(one) != operator.contains("Not")
}

fn principal_means(principal: &Value, who: &Who) -> Means {
    let names: Vec<String> = match principal {
        Value::Object(groups) => groups.values().flat_map(list).collect(),
        other => list(other),
    };
    let one = |name: &String| {
        let Some(account) = who.account else {
            return if name == "*" { Means::ByName } else { Means::Not };
        };
        let own = Account::named(account);
        if name == "*" {
            Means::ByName
        } else if *name == own.number() || *name == arn_of(account, None) || *name == own.id {
            Means::ByAccount
        } else if who.user.is_some() && *name == arn_of(account, who.user) {
            Means::ByName
        } else {
            Means::Not
        }
    };
    names.iter().map(one).max().unwrap_or(Means::Not)
}

fn statement_means(statement: &Value, case: &Case, resource: &str) -> Means {
    let means = match (statement.get("Principal"), statement.get("NotPrincipal")) {
        (Some(principal), _) => principal_means(principal, &case.who),
        (_, Some(principal)) if principal_means(principal, &case.who) == Means::Not => Means::ByName,
        (_, Some(_)) => Means::Not,
        _ => Means::ByName,
    };
    let action = |pattern: &String| glob(pattern.to_lowercase().as_bytes(), case.action.to_lowercase().as_bytes());
    let place =
        |pattern: &String| filled(pattern, &case.keys).is_some_and(|full| glob(full.as_bytes(), resource.as_bytes()));
    let field = |name: &str, not: &str, fits: &dyn Fn(&String) -> bool| match statement.get(name) {
        Some(all) => list(all).iter().any(fits),
        None => !list(&statement[not]).iter().any(fits),
    };
    let conditions = statement.get("Condition").and_then(Value::as_object).cloned().unwrap_or_default();
    let holds = conditions.iter().all(|(operator, by_key)| {
        by_key.as_object().unwrap().iter().all(|(key, wanted)| condition_holds(operator, key, wanted, &case.keys))
    });
    if field("Action", "NotAction", &action) && field("Resource", "NotResource", &place) && holds {
        means
    } else {
        Means::Not
    }
}

/// Whether it denies, and how it allows.
fn document_says(document: &Value, case: &Case, resource: &str) -> (bool, Means) {
    let statements = document["Statement"].as_array().unwrap();
    let all = |effect: &str| {
        let of = statements.iter().filter(|statement| statement["Effect"] == effect);
        of.map(|statement| statement_means(statement, case, resource)).max().unwrap_or(Means::Not)
    };
    (all("Deny") != Means::Not, all("Allow"))
}

fn lets_in_everybody(document: &Value) -> bool {
    document["Statement"].as_array().unwrap().iter().any(|statement| {
        let everybody = statement.get("Principal").is_some_and(|principal| match principal {
            Value::Object(groups) => groups.values().flat_map(list).any(|name| name == "*"),
            other => other == "*",
        });
        // Of the conditions that are made here, only this one says from where.
        let fixed = statement["Condition"]["IpAddress"].is_object();
        statement["Effect"] == "Allow" && everybody && !fixed
    })
}

fn acl_permits(acl: Option<&Vec<(&str, Permission)>>, case: &Case, permission: Permission) -> Means {
    let grants =
        acl.into_iter().flatten().filter(|(_, given)| *given == permission || *given == Permission::FullControl);
    let one = |(grantee, _): &(&str, Permission)| match *grantee {
        "everybody" if !case.block.ignore_public_acls => Means::ByName,
        "signed" if !case.block.ignore_public_acls && case.who.account.is_some() => Means::ByName,
        name if case.who.account == Some(name) => Means::ByAccount,
        _ => Means::Not,
    };
    grants.map(one).max().unwrap_or(Means::Not)
}

fn naive(case: &Case) -> Decision {
    let resource = match case.key {
        "" => "arn:aws:s3:::b".to_owned(),
        key => format!("arn:aws:s3:::b/{key}"),
    };
    let is_root = case.who.account.is_some() && case.who.user.is_none();
    let says = |document: &Value| document_says(document, case, &resource);
    let (denied, by_policy) = case.policy.as_ref().map_or((false, Means::Not), says);
    // 1. Denials.
    let unlockable = case.action.ends_with("BucketPolicy") && is_root && case.who.account == Some(OWNER);
    let own: Vec<_> = case.who.own.iter().map(says).collect();
    let session = case.who.session.as_ref().map(says);
    if (denied && !unlockable) || own.iter().any(|(denied, _)| *denied) || session.is_some_and(|(denied, _)| denied) {
        return Decision::Denied;
    }
    // 2. A session only has what its policy allows.
    if session.is_some_and(|(_, allowed)| allowed == Means::Not) {
        return Decision::OutsideSession;
    }
    // 3. Whose it is.
    let acls = case.ownership != Ownership::BucketOwnerEnforced;
    let of_object =
        ["s3:GetObject", "s3:GetObjectAcl", "s3:PutObjectAcl", "s3:GetObjectTagging"].contains(&case.action);
    let object = case.object.as_ref().filter(|_| acls && of_object);
    let owner = object.map_or(OWNER, |(owner, _)| owner);
    // 4. The public access block, and what the bucket's owner can give.
    let public = case.policy.as_ref().is_some_and(lets_in_everybody);
    let restricted = case.block.restrict_public_buckets && public && case.who.account != Some(OWNER);
    let about_policies = case.action.ends_with("BucketPolicy") || case.action.ends_with("BucketPolicyStatus");
    let foreign = about_policies && case.who.account != Some(OWNER);
    let by_policy = if restricted || foreign || owner != OWNER { Means::Not } else { by_policy };
    // 5. Access control lists, where they count.
    let (list, permission) = match case.action {
        "s3:ListBucket" => (case.bucket_acl.as_ref(), Some(Permission::Read)),
        "s3:PutObject" | "s3:DeleteObject" => (case.bucket_acl.as_ref(), Some(Permission::Write)),
        "s3:GetObject" => (object.and_then(|(_, acl)| acl.as_ref()), Some(Permission::Read)),
        "s3:GetObjectAcl" => (object.and_then(|(_, acl)| acl.as_ref()), Some(Permission::ReadAcp)),
        "s3:PutObjectAcl" => (object.and_then(|(_, acl)| acl.as_ref()), Some(Permission::WriteAcp)),
        _ => (None, None),
    };
    let by_acl = permission.filter(|_| acls).map_or(Means::Not, |permission| acl_permits(list, case, permission));
    let own = own.iter().any(|(_, allowed)| *allowed != Means::Not);
    let allowed = match (case.who.account, is_root) {
        (None, _) => by_policy != Means::Not || by_acl != Means::Not,
        (Some(account), true) if account == owner => {
            let of_list = matches!(permission, Some(Permission::ReadAcp | Permission::WriteAcp));
            let kept = !acls || list.is_none() || of_list;
            kept || by_policy != Means::Not || by_acl != Means::Not
        }
        (Some(account), false) if account == owner => own || by_policy == Means::ByName || by_acl == Means::ByName,
        (Some(_), _) => (is_root || own) && (by_policy != Means::Not || by_acl != Means::Not),
    };
    if allowed { Decision::Allowed } else { Decision::NotAllowed }
}

// ---- what is compared with it ----

fn parsed(document: &Value) -> Arc<PolicyDocument> {
    Arc::new(PolicyDocument::of_identity(&document.to_string()).unwrap())
}

fn acl(grants: &[(&'static str, Permission)]) -> Acl {
    let grantee = |name| match name {
        "everybody" => Grantee::AllUsers,
        "signed" => Grantee::AuthenticatedUsers,
        name => Grantee::Account(Account::named(name).id),
    };
    Acl(grants.iter().map(|(name, permission)| Grant { grantee: grantee(*name), permission: *permission }).collect())
}

fn real(case: &Case) -> Decision {
    let caller = case.who.account.map_or(Caller::Anonymous, |account| {
        Caller::Known(Arc::new(Identity {
            account: Arc::new(Account::named(account)),
            user: case.who.user.map(str::to_owned),
            policies: case.who.own.iter().map(parsed).collect(),
            session: case.who.session.as_ref().map(parsed),
        }))
    });
    let bucket = BucketFacts {
        owner: Account::named(OWNER).id,
        controls: OwnershipControls { ownership: case.ownership, deleted: false },
        acl: case.bucket_acl.as_deref().map(acl),
        policy: case
            .policy
            .as_ref()
            .map(|policy| Arc::new(PolicyDocument::of_bucket(&policy.to_string(), "b").unwrap())),
        block: case.block,
    };
    let object = case
        .object
        .as_ref()
        .map(|(owner, list)| ObjectFacts { owner: Account::named(owner).id, acl: list.as_deref().map(acl) });
    let resource =
        if case.key.is_empty() { "arn:aws:s3:::b".to_owned() } else { format!("arn:aws:s3:::b/{}", case.key) };
    let ask = Ask { caller: &caller, action: case.action, resource: &resource, context: &case.keys };
    decide(&bucket, &ask, || Ok::<_, ()>(object)).unwrap()
}

// ---- cases ----

fn conditions() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => Just(json!({})),
        1 => Just(json!({"StringEquals": {"s3:prefix": ["a", "x"]}})),
        1 => Just(json!({"StringNotEquals": {"s3:prefix": "a"}})),
        1 => Just(json!({"StringLike": {"s3:prefix": "a*"}, "Bool": {"aws:SecureTransport": false}})),
        1 => Just(json!({"StringEqualsIfExists": {"s3:prefix": "ab"}})),
        1 => Just(json!({"ForAnyValue:StringNotLike": {"s3:prefix": "a?"}})),
        1 => Just(json!({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.168.7.9"]}})),
        1 => Just(json!({"NotIpAddress": {"aws:SourceIp": "10.1.0.0/16"}})),
        1 => Just(json!({"Null": {"s3:prefix": "true"}})),
        1 => Just(json!({"NumericLessThan": {"s3:max-keys": 10}})),
    ]
}

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(all, 1..=2)
}

fn statement(of_bucket: bool) -> impl Strategy<Value = Value> {
    const ACTIONS: [&str; 8] =
        ["s3:*", "*", "s3:Get*", "S3:getobject*", "s3:?utObject", "s3:List*", "s3:Put*", "s3:*Object*"];
    const RESOURCES: [&str; 5] = [
        "arn:aws:s3:::b",
        "arn:aws:s3:::b/*",
        "arn:aws:s3:::b*",
        "arn:aws:s3:::b/a/?",
        "arn:aws:s3:::b/${aws:username}/*",
    ];
    let principals = prop_oneof![
        3 => Just(json!("*")),
        1 => Just(json!({"AWS": "*"})),
        2 => Just(json!({"AWS": Account::named(OTHER).number()})),
        1 => Just(json!({"AWS": arn_of(OWNER, None)})),
        2 => Just(json!({"AWS": [arn_of(OWNER, Some("ann")), arn_of(OTHER, Some("ann"))]})),
        1 => Just(json!({"CanonicalUser": Account::named(OTHER).id})),
        1 => Just(json!({"Service": "x.amazonaws.com"})),
    ];
    let names = (prop::bool::weighted(0.15), prop::bool::weighted(0.15), prop::bool::weighted(0.1));
    let parts = (prop::bool::weighted(0.3), principals, some_of(&ACTIONS), some_of(&RESOURCES), conditions());
    (names, parts).prop_map(
        move |((no_action, no_resource, no_principal), (denies, principal, action, resource, condition))| {
            let mut statement = json!({"Effect": if denies { "Deny" } else { "Allow" }});
            statement[if no_action { "NotAction" } else { "Action" }] = json!(action);
            statement[if no_resource { "NotResource" } else { "Resource" }] = json!(resource);
            if of_bucket {
                statement[if no_principal && denies { "NotPrincipal" } else { "Principal" }] = principal;
            }
            if condition != json!({}) {
                statement["Condition"] = condition;
            }
            statement
        },
    )
}

fn document(of_bucket: bool) -> impl Strategy<Value = Value> {
    prop::collection::vec(statement(of_bucket), 1..=3)
        .prop_map(|statements| json!({"Version": "2012-10-17", "Statement": statements}))
}

fn grants() -> impl Strategy<Value = Option<Vec<(&'static str, Permission)>>> {
    use Permission as P;
    let grantee = prop::sample::select(vec!["everybody", "signed", OWNER, OTHER]);
    let permission = prop::sample::select(vec![P::FullControl, P::Read, P::Write, P::ReadAcp, P::WriteAcp]);
    prop::option::of(prop::collection::vec((grantee, permission), 0..=3))
}

fn who() -> impl Strategy<Value = Who> {
    let account = prop::sample::select(vec![None, Some(OWNER), Some(OWNER), Some(OTHER)]);
    let user = prop::sample::select(vec![None, Some("ann"), Some("bob")]);
    let own = prop::collection::vec(document(false), 0..=2);
    (account, user, own, prop::option::weighted(0.2, document(false))).prop_map(|(account, user, own, session)| {
        let user = user.filter(|_| account.is_some());
        Who {
            account,
            user,
            own: if user.is_some() { own } else { Vec::new() },
            session: session.filter(|_| account.is_some()),
        }
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let block = (any::<bool>(), prop::bool::weighted(0.3), any::<bool>(), prop::bool::weighted(0.3));
    let ownership = prop::sample::select(vec![
        Ownership::BucketOwnerEnforced,
        Ownership::BucketOwnerPreferred,
        Ownership::ObjectWriter,
    ]);
    let action = prop::sample::select(vec![
        ("s3:GetObject", true),
        ("s3:PutObject", true),
        ("s3:DeleteObject", true),
        ("s3:GetObjectAcl", true),
        ("s3:PutObjectAcl", true),
        ("s3:GetObjectTagging", true),
        ("s3:ListBucket", false),
        ("s3:PutBucketPolicy", false),
        ("s3:GetBucketLocation", false),
    ]);
    let object = prop::option::weighted(0.8, (prop::sample::select(vec![OWNER, OTHER]), grants()));
    let request = (
        prop::sample::select(vec!["a/b", "ann/x", "c"]),
        prop::sample::select(vec![None, Some("a"), Some("ab"), Some("x")]),
        prop::sample::select(vec!["10.1.2.3", "10.9.9.9", "192.168.7.9", "8.8.8.8"]),
        prop::sample::select(vec![None, Some("5"), Some("50")]),
    );
    let bucket = (prop::option::weighted(0.8, document(true)), ownership, grants(), block);
    (who(), bucket, object, action, request).prop_map(|(who, bucket, object, (action, on_object), request)| {
        let (policy, ownership, bucket_acl, block) = bucket;
        let (key, prefix, ip, max_keys) = request;
        let mut keys = vec![("aws:SourceIp", ip.to_owned()), ("aws:SecureTransport", "false".to_owned())];
        keys.extend(prefix.map(|prefix| ("s3:prefix", prefix.to_owned())));
        keys.extend(max_keys.map(|max| ("s3:max-keys", max.to_owned())));
        keys.extend(who.user.map(|user| ("aws:username", user.to_owned())));
        let block = PublicAccessBlock {
            block_public_acls: block.0,
            ignore_public_acls: block.1,
            block_public_policy: block.2,
            restrict_public_buckets: block.3,
        };
        let key = if on_object { key } else { "" };
        Case { who, policy, ownership, bucket_acl, block, object, action, key, keys: Keys(keys) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_is_that_of_an_evaluator_written_from_the_docs(case in cases()) {
        prop_assert_eq!(real(&case), naive(&case));
    }
}

#[test]
fn the_owner_cannot_lock_itself_out() {
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"]},
    ]});
    let mut case = Case {
        who: Who { account: Some(OWNER), user: None, own: Vec::new(), session: None },
        policy: Some(policy),
        ownership: Ownership::BucketOwnerEnforced,
        bucket_acl: None,
        block: PublicAccessBlock::default(),
        object: None,
        action: "s3:PutBucketPolicy",
        key: "",
        keys: Keys(Vec::new()),
    };
    for action in ["s3:PutBucketPolicy", "s3:GetBucketPolicy", "s3:DeleteBucketPolicy"] {
        case.action = action;
        assert_eq!(real(&case), Decision::Allowed, "{action}");
    }
    case.action = "s3:ListBucket";
    assert_eq!(real(&case), Decision::Denied);
    case.who.user = Some("ann");
    case.action = "s3:PutBucketPolicy";
    assert_eq!(real(&case), Decision::Denied);
}
