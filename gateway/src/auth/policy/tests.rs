use super::*;
use crate::auth::identity::Caller;
use serde_json::{Value, json};

struct Values(Vec<(&'static str, Vec<&'static str>)>);

impl Context for Values {
    fn values(&self, key: &Key) -> Option<Vec<String>> {
        let found = self.0.iter().find(|(name, _)| Key::new(name) == *key)?;
        Some(found.1.iter().map(|value| (*value).to_owned()).collect())
    }
}

fn allowing(change: impl Fn(&mut Value)) -> String {
    let mut statement = json!({
        "Sid": "s", "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*",
    });
    change(&mut statement);
    json!({"Version": "2012-10-17", "Id": "i", "Statement": [statement]}).to_string()
}

#[test]
fn what_is_no_policy_is_refused_by_the_name_of_the_field() {
    let set = |name: &'static str, value: Value| {
        allowing(move |statement| {
            statement.as_object_mut().unwrap().insert(name.into(), value.clone());
        })
    };
    let without = |name: &'static str| {
        allowing(move |statement| {
            statement.as_object_mut().unwrap().remove(name);
        })
    };
    let cases = [
        ("[]".to_owned(), "first byte must be '{'"),
        ("{".to_owned(), "invalid Json"),
        (r#"{"Version": "2020-01-01", "Statement": []}"#.to_owned(), "valid version string"),
        (r#"{"Version": "2012-10-17"}"#.to_owned(), "Missing required field Statement"),
        (r#"{"Version": "2012-10-17", "Statement": []}"#.to_owned(), "Statement must be"),
        (r#"{"Version": "2012-10-17", "Version": "2012-10-17", "Statement": []}"#.to_owned(), "given twice"),
        (r#"{"Extra": 1, "Statement": []}"#.to_owned(), "Unknown field Extra"),
        (set("Effect", json!("Maybe")), "Invalid effect"),
        (set("Principal", json!({"AWS": "me"})), "Invalid principal"),
        (set("Principal", json!({"AWS": "arn:aws:iam::123456789012:user/*"})), "Invalid principal"),
        (set("Principal", json!("me")), "Invalid principal"),
        (set("NotPrincipal", json!("*")), "besides its opposite"),
        (
            r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "NotPrincipal": {"AWS": "123456789012"},
                "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"}}"#
                .to_owned(),
            "Allow with NotPrincipal",
        ),
        (set("Action", json!("s3:Fly")), "invalid action: s3:Fly"),
        (set("Action", json!([])), "Action must be"),
        (set("Resource", json!("arn:aws:s3:::c/*")), "invalid resource: arn:aws:s3:::c/*"),
        (set("Resource", json!("b/*")), "invalid resource"),
        (set("Resource", json!("arn:aws:s3:::b/${aws:username")), "no closing brace"),
        (set("Condition", json!({"StringIs": {"s3:prefix": "a"}})), "Invalid Condition type : StringIs"),
        (set("Condition", json!({"StringEquals": {"s3:moon": "a"}})), "invalid condition key: s3:moon"),
        (set("Condition", json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}})), "invalid value 10.0.0.0/33"),
        (set("Condition", json!({"Bool": {"aws:SecureTransport": "yes"}})), "invalid value yes"),
        (set("Condition", json!({"DateLessThan": {"aws:CurrentTime": "soon"}})), "invalid value soon"),
        (set("Condition", json!({"NullIfExists": {"s3:prefix": "true"}})), "Invalid Condition type"),
        (set("Moon", json!(1)), "Unknown field Moon"),
        (without("Effect"), "Missing required field Effect"),
        (without("Principal"), "Missing required field Principal"),
        (without("Action"), "Missing required field Action"),
        (without("Resource"), "Missing required field Resource"),
    ];
    for (text, words) in cases {
        let error = PolicyDocument::of_bucket(&text, "b").unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let principal = allowing(|_| {});
    assert!(PolicyDocument::of_identity(&principal).unwrap_err().to_string().contains("Principal"));
}

#[test]
fn a_stored_policy_for_all_but_some_allows_nothing_and_its_denials_count() {
    let text = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "NotPrincipal": {"AWS": "123456789012"}, "Action": "s3:*", "Resource": "arn:aws:s3:::b/*"},
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/open"},
        {"Effect": "Deny", "NotPrincipal": {"AWS": "123456789012"}, "Action": "s3:PutObject", "Resource": "arn:aws:s3:::b/*"},
    ]});
    let policy = PolicyDocument::stored(&text.to_string(), "b").unwrap();
    let judge = |action: &str, resource: &str| {
        policy.judge(&Ask { caller: &Caller::Anonymous, action, resource, context: &Values(Vec::new()) })
    };
    assert_eq!(judge("s3:GetObject", "arn:aws:s3:::b/k"), Verdict::default());
    assert!(judge("s3:GetObject", "arn:aws:s3:::b/open").allowed.is_some());
    assert!(judge("s3:PutObject", "arn:aws:s3:::b/k").denied);
}

#[test]
fn resources_of_the_bucket_are_found_through_wildcards_and_variables() {
    for resource in ["*", "arn:aws:s3:::*", "arn:aws:s3::*:b/*", "arn:aws:s3:::?/*", "arn:aws:s3:::b/${aws:username}/*"]
    {
        let text = allowing(|statement| statement["Resource"] = json!(resource));
        assert!(PolicyDocument::of_bucket(&text, "b").is_ok(), "{resource}");
    }
}

fn allows(conditions: Value, values: &Values) -> bool {
    let text = allowing(|statement| statement["Condition"] = conditions.clone());
    let policy = PolicyDocument::of_bucket(&text, "b").unwrap();
    let ask = Ask { caller: &Caller::Anonymous, action: "s3:GetObject", resource: "arn:aws:s3:::b/k", context: values };
    policy.judge(&ask).allowed.is_some()
}

#[test]
fn every_operator_compares_as_its_name_says() {
    let values = Values(vec![
        ("s3:prefix", vec!["Docs/a"]),
        ("s3:max-keys", vec!["20"]),
        ("aws:CurrentTime", vec!["2026-03-01T12:00:00Z"]),
        ("aws:SecureTransport", vec!["true"]),
        ("aws:SourceIp", vec!["2001:db8::7"]),
        ("aws:PrincipalArn", vec!["arn:aws:iam::123456789012:user/ann"]),
        ("aws:username", vec!["Docs"]),
        ("s3:RequestObjectTagKeys", vec!["a", "b"]),
        ("s3:ExistingObjectTag/Kind", vec!["public"]),
    ]);
    let cases = [
        ("StringEquals", "s3:prefix", json!("Docs/a"), true),
        ("StringEquals", "S3:PREFIX", json!(["x", "Docs/a"]), true),
        ("StringEquals", "s3:prefix", json!("docs/a"), false),
        ("StringEquals", "s3:prefix", json!("${aws:username}/a"), true),
        ("StringEquals", "s3:prefix", json!("Docs/*"), false),
        ("StringNotEquals", "s3:prefix", json!(["x", "Docs/a"]), false),
        ("StringNotEquals", "s3:delimiter", json!("/"), true),
        ("StringEqualsIgnoreCase", "s3:prefix", json!("dOCS/A"), true),
        ("StringNotEqualsIgnoreCase", "s3:prefix", json!("dOCS/A"), false),
        ("StringLike", "s3:prefix", json!("D?cs/*"), true),
        ("StringLike", "s3:prefix", json!("${aws:username}/*"), true),
        ("StringLike", "s3:prefix", json!("${aws:userid, 'Do'}*"), true),
        ("StringLike", "s3:prefix", json!("${aws:userid}*"), false),
        ("StringLike", "s3:prefix", json!("Docs${*}a"), false),
        ("StringNotLike", "s3:prefix", json!("D*"), false),
        ("NumericEquals", "s3:max-keys", json!(20), true),
        ("NumericNotEquals", "s3:max-keys", json!("20.0"), false),
        ("NumericLessThan", "s3:max-keys", json!("20"), false),
        ("NumericLessThanEquals", "s3:max-keys", json!("20"), true),
        ("NumericGreaterThan", "s3:max-keys", json!("19"), true),
        ("NumericGreaterThanEquals", "s3:max-keys", json!("21"), false),
        ("DateLessThan", "aws:CurrentTime", json!("2026-03-02"), true),
        ("DateGreaterThan", "aws:CurrentTime", json!("2026-03-01T13:00:00+01:00"), false),
        ("DateEquals", "aws:CurrentTime", json!("2026-03-01T13:00:00+01:00"), true),
        ("DateNotEquals", "aws:CurrentTime", json!("1772366400"), false),
        ("Bool", "aws:SecureTransport", json!(true), true),
        ("Bool", "aws:SecureTransport", json!("false"), false),
        ("IpAddress", "aws:SourceIp", json!("2001:db8::/32"), true),
        ("IpAddress", "aws:SourceIp", json!("0.0.0.0/0"), false),
        ("NotIpAddress", "aws:SourceIp", json!(["10.0.0.0/8", "2001:db8::/127"]), true),
        ("ArnLike", "aws:PrincipalArn", json!("arn:aws:iam::*:user/a*"), true),
        ("ArnEquals", "aws:PrincipalArn", json!("arn:*:user/ann"), false),
        ("ArnNotLike", "aws:PrincipalArn", json!("arn:aws:iam::123456789012:user/ann"), false),
        ("Null", "s3:prefix", json!("true"), false),
        ("Null", "s3:delimiter", json!(true), true),
        ("StringEqualsIfExists", "s3:delimiter", json!("/"), true),
        ("StringEqualsIfExists", "s3:prefix", json!("/"), false),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", json!(["a", "b", "c"]), true),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", json!(["a"]), false),
        ("ForAllValues:StringEquals", "s3:delimiter", json!("x"), true),
        ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", json!(["b", "z"]), true),
        ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", json!("z"), false),
        ("ForAnyValue:StringNotEquals", "s3:delimiter", json!("x"), false),
        ("StringEquals", "s3:ExistingObjectTag/Kind", json!("public"), true),
        ("StringEquals", "s3:ExistingObjectTag/kind", json!("public"), false),
    ];
    for (operator, key, wanted, expected) in cases {
        let condition = json!({operator: {key: wanted}});
        assert_eq!(allows(condition.clone(), &values), expected, "{condition}");
    }
}

#[test]
fn addresses_of_version_4_are_found_however_they_are_written() {
    for address in ["10.1.2.3", "::ffff:10.1.2.3"] {
        let values = Values(vec![("aws:SourceIp", vec![address])]);
        for network in ["10.0.0.0/8", "::ffff:10.1.0.0/112", "0.0.0.0/0"] {
            assert!(allows(json!({"IpAddress": {"aws:SourceIp": network}}), &values), "{address} {network}");
        }
        assert!(!allows(json!({"IpAddress": {"aws:SourceIp": "::/0"}}), &values));
    }
}

#[test]
fn before_2012_a_variable_means_itself() {
    let text = allowing(|statement| statement["Resource"] = json!("arn:aws:s3:::b/${aws:username}"));
    let values = Values(vec![("aws:username", vec!["ann"])]);
    let judge = |text: &str, resource: &str| {
        let ask = Ask { caller: &Caller::Anonymous, action: "s3:GetObject", resource, context: &values };
        PolicyDocument::of_bucket(text, "b").unwrap().judge(&ask).allowed.is_some()
    };
    assert!(judge(&text, "arn:aws:s3:::b/ann"));
    let older = text.replace("2012-10-17", "2008-10-17");
    assert!(!judge(&older, "arn:aws:s3:::b/ann"));
    assert!(judge(&older, "arn:aws:s3:::b/${aws:username}"));
}

#[test]
fn a_policy_is_public_when_everybody_is_let_in_from_anywhere() {
    let with = |condition: Value| allowing(move |statement| statement["Condition"] = condition.clone());
    let cases = [
        (allowing(|_| {}), true),
        (allowing(|statement| statement["Effect"] = json!("Deny")), false),
        (allowing(|statement| statement["Principal"] = json!({"AWS": "123456789012"})), false),
        (allowing(|statement| statement["Principal"] = json!({"AWS": ["123456789012", "*"]})), true),
        (with(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}})), false),
        (with(json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}})), true),
        (with(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})), true),
        (with(json!({"StringLike": {"aws:PrincipalArn": "*"}})), true),
        (with(json!({"StringEquals": {"aws:PrincipalAccount": "123456789012"}})), false),
        (with(json!({"StringEquals": {"s3:prefix": "a"}})), true),
    ];
    for (text, expected) in cases {
        assert_eq!(PolicyDocument::of_bucket(&text, "b").unwrap().is_public(), expected, "{text}");
    }
}

#[test]
fn wildcards_go_back_as_far_as_they_must() {
    let cases = [
        ("*", "", true),
        ("a*b*c", "aXbYbc", true),
        ("a*b*c", "aXbYb", false),
        ("?", "", false),
        ("?", "é", true),
        ("*?", "x", true),
        ("**a", "ba", true),
        ("", "a", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
    }
}
