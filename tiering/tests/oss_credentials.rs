//! Every source of credentials against small simulators of the services that give them.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod wire;

use std::time::{Duration, Instant};
use tidegate_tiering::tier::TierErrorKind;
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use wire::keys::{HOUR, form, grant, key_of, put, spec, store, tier};
use wire::{Recorded, Reply, Server};

#[tokio::test]
async fn the_role_of_an_instance_is_read_with_a_token() {
    let metadata = Server::start(|_, request| match (request.method.as_str(), request.target.as_str()) {
        ("PUT", "/latest/api/token") => Reply::new(200).body("metadata-token"),
        _ if request.header("x-aliyun-ecs-metadata-token") != "metadata-token" => Reply::new(403),
        ("GET", "/latest/meta-data/ram/security-credentials/") => Reply::new(200).body("role-1\n"),
        ("GET", "/latest/meta-data/ram/security-credentials/role-1") => Reply::new(200).body(grant("ecs", HOUR)),
        _ => Reply::new(404),
    })
    .await;
    let store = store().await;
    let text = format!(r#"{{"source":"ecs_role","disable_v1":true,"endpoint":"{}"}}"#, metadata.address);
    let (tier, _) = tier(&store.address, spec(&text), &|_| None);
    put(&tier).await.unwrap();
    put(&tier).await.unwrap();
    assert_eq!(key_of(&store), "ecs");
    assert_eq!(store.requests()[0].header("x-oss-security-token"), "token-ecs");
    assert_eq!(metadata.requests()[0].header("x-aliyun-ecs-metadata-token-ttl-seconds"), "21600");
    assert_eq!(metadata.requests().len(), 3, "the key is kept");
}

#[tokio::test]
async fn the_older_metadata_protocol_is_used_only_where_it_is_allowed() {
    let metadata = Server::start(|_, request| match request.method.as_str() {
        "PUT" => Reply::new(404),
        _ => Reply::new(200).body(grant("old", HOUR)),
    })
    .await;
    let store = store().await;
    let text =
        |v1: bool| format!(r#"{{"source":"ecs_role","role":"r","disable_v1":{v1},"endpoint":"{}"}}"#, metadata.address);
    put(&tier(&store.address, spec(&text(false)), &|_| None).0).await.unwrap();
    assert_eq!(key_of(&store), "old");
    let error = put(&tier(&store.address, spec(&text(true)), &|_| None).0).await.unwrap_err();
    assert!(error.kind() == TierErrorKind::Denied && error.to_string().contains("v1 is disabled"), "{error}");
}

/// The signature that a request of the token service must have, reckoned from what arrived.
fn rpc_signature(request: &Recorded, secret: &str) -> String {
    use base64::Engine;
    use hmac::{Hmac, KeyInit, Mac};
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let encode = |text: &str| utf8_percent_encode(text, STRICT).to_string();
    let text = request.text();
    let mut pairs: Vec<&str> = text.split('&').filter(|pair| !pair.starts_with("Signature=")).collect();
    pairs.sort_unstable();
    let signed = format!("{}&%2F&{}", request.method, encode(&pairs.join("&")));
    let key = format!("{secret}&");
    let mac = Hmac::<sha1::Sha1>::new_from_slice(key.as_bytes()).unwrap().chain_update(signed.as_bytes());
    encode(&base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_role_is_taken_on_with_a_signed_request() {
    let sts = Server::start(|_, request| {
        let form = form(request);
        let right = form["Signature"] == rpc_signature(request, "hush")
            && form["Action"] == "AssumeRole"
            && form["AccessKeyId"] == "base"
            && form["ExternalId"] == "ext%2F1"
            && form["DurationSeconds"] == "900"
            && form["RoleArn"] == "acs%3Aram%3A%3A1%3Arole%2Fr";
        match right {
            true => Reply::new(200).body(format!(r#"{{"RequestId":"R","Credentials":{}}}"#, grant("role", HOUR))),
            false => Reply::new(400).body(r#"{"Code":"InvalidParameter","Message":"bad","RequestId":"R"}"#),
        }
    })
    .await;
    let store = store().await;
    let text = format!(
        r#"{{"source":"assume_role","role_arn":"acs:ram::1:role/r","external_id":"ext/1","duration_seconds":900,
            "sts_endpoint":"{}","base":{{"source":"static","access_key_id":"base","access_key_secret":"hush"}}}}"#,
        sts.address
    );
    let (tier, _) = tier(&store.address, spec(&text), &|_| None);
    put(&tier).await.unwrap();
    assert_eq!(key_of(&store), "role");
    assert!(!format!("{tier:?}").contains("hush"));
    assert!(!sts.requests()[0].text().contains("hush"));
}

#[tokio::test]
async fn a_pod_takes_on_its_role_with_the_token_file_that_is_read_again() {
    let sts = Server::start(|_, request| {
        let token = form(request)["OIDCToken"].clone();
        assert!(request.target.contains("Action=AssumeRoleWithOIDC") && !request.target.contains("OIDCToken"));
        Reply::new(200).body(format!(r#"{{"Credentials":{}}}"#, grant(&token, Duration::from_secs(1))))
    })
    .await;
    let store = store().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    let (path, address) = (file.display().to_string(), sts.address.clone());
    let env = move |name: &str| {
        Some(match name {
            "ALIBABA_CLOUD_ROLE_ARN" => "acs:ram::1:role/pod".to_owned(),
            "ALIBABA_CLOUD_OIDC_PROVIDER_ARN" => "acs:ram::1:oidc-provider/p".to_owned(),
            "ALIBABA_CLOUD_OIDC_TOKEN_FILE" => path.clone(),
            "ALIBABA_CLOUD_STS_ENDPOINT" => address.clone(),
            _ => return None,
        })
    };
    // The default chain finds it by the variables.
    let (tier, _) = tier(&store.address, spec(r#"{"source":"default"}"#), &env);
    let deadline = Instant::now() + Duration::from_secs(180);
    for expected in ["first", "second"] {
        std::fs::write(&file, expected).unwrap();
        loop {
            // A grant of one second, cut to whole seconds, may have ended before it arrived.
            if put(&tier).await.is_ok() && key_of(&store) == expected {
                break;
            }
            assert!(Instant::now() < deadline, "never signed with {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    std::fs::write(&file, "").unwrap();
    let error = loop {
        match put(&tier).await {
            Err(error) if error.to_string().contains("expired") => continue,
            Err(error) => break error,
            Ok(()) => assert!(Instant::now() < deadline),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(error.to_string().contains("is empty"), "{error}");
}

#[tokio::test]
async fn a_uri_gives_keys_and_its_failures_are_told_without_it() {
    let answers = [
        (200, grant("uri", HOUR), None),
        (403, String::new(), Some((TierErrorKind::Denied, "status 403"))),
        (500, String::new(), Some((TierErrorKind::Unavailable, "status 500"))),
        (200, "{}".to_owned(), Some((TierErrorKind::Denied, "no AccessKeyId"))),
        (200, "<html>".to_owned(), Some((TierErrorKind::Denied, "no credentials"))),
        (200, r#"{"Code":"Fail"}"#.to_owned(), Some((TierErrorKind::Denied, "Fail"))),
        (
            200,
            r#"{"AccessKeyId":"a","AccessKeySecret":"b","Expiration":"2001-01-01T00:00:00Z"}"#.to_owned(),
            Some((TierErrorKind::Denied, "expired at 2001-01-01")),
        ),
    ];
    let store = store().await;
    for (status, body, expected) in answers {
        let service = Server::start(move |_, _| Reply::new(status).body(body.clone())).await;
        let text = format!(r#"{{"source":"uri","uri":"{}/?key=secret-in-uri"}}"#, service.address);
        let (tier, metrics) = tier(&store.address, spec(&text), &|_| None);
        let result = put(&tier).await;
        match expected {
            None => result.unwrap(),
            Some((kind, part)) => {
                let error = result.unwrap_err();
                let text = format!("{error} {error:?} {tier:?}");
                assert!(error.kind() == kind && text.contains(part), "{text}");
                assert!(!text.contains("secret-in-uri"), "{text}");
                assert_eq!(metrics.credential_failures.get(), 1);
            }
        }
    }
    let nobody = spec(r#"{"source":"uri","uri":"http://127.0.0.1:1/?key=secret-in-uri"}"#);
    let error = put(&tier(&store.address, nobody, &|_| None).0).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    assert!(!format!("{error:?}").contains("secret-in-uri"), "{error:?}");
}

#[tokio::test]
async fn both_files_of_the_vendor_are_read_by_profile() {
    let folder = tempfile::tempdir().unwrap();
    let cli = folder.path().join("config.json");
    std::fs::write(
        &cli,
        r#"{"current":"two","profiles":[
            {"name":"one","mode":"AK","access_key_id":"cli-1","access_key_secret":"s"},
            {"name":"two","mode":"StsToken","access_key_id":"cli-2","access_key_secret":"s","sts_token":"t"},
            {"name":"sso","mode":"CloudSSO"},
            {"name":"loop","mode":"ChainableRamRoleArn","ram_role_arn":"r","source_profile":"loop"}]}"#,
    )
    .unwrap();
    let ini = folder.path().join("credentials");
    std::fs::write(
        &ini,
        "# keys\n[default]\ntype = access_key\naccess_key_id = ini-1\naccess_key_secret = s\n\n[half]\naccess_key_id = x\n",
    )
    .unwrap();
    let store = store().await;
    let of = |source: &str, path: &std::path::Path, profile: &str| {
        let profile = if profile.is_empty() { String::new() } else { format!(r#","profile":"{profile}""#) };
        spec(&format!(r#"{{"source":"{source}","path":"{}"{profile}}}"#, path.display()))
    };
    for (spec, key) in [
        (of("cli_config", &cli, ""), "cli-2"),
        (of("cli_config", &cli, "one"), "cli-1"),
        (of("credentials_file", &ini, ""), "ini-1"),
    ] {
        put(&tier(&store.address, spec, &|_| None).0).await.unwrap();
        assert_eq!(key_of(&store), key);
    }
    for (spec, part) in [
        (of("cli_config", &cli, "none"), "no profile \"none\""),
        (of("cli_config", &cli, "sso"), "mode \"CloudSSO\""),
        (of("cli_config", &cli, "loop"), "name each other"),
        (of("cli_config", &ini, ""), "cannot be read at line"),
        (of("credentials_file", &ini, "half"), "access_key_secret is missing"),
        (of("credentials_file", &folder.path().join("gone"), ""), "cannot read"),
    ] {
        let error = put(&tier(&store.address, spec, &|_| None).0).await.unwrap_err();
        assert!(error.kind() == TierErrorKind::Denied && error.to_string().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn the_default_chain_goes_by_the_official_order_and_an_empty_one_says_what_it_looked_for() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".alibabacloud")).unwrap();
    let file = home.path().join(".alibabacloud/credentials");
    std::fs::write(&file, "[default]\naccess_key_id=from-file\naccess_key_secret=s\n").unwrap();
    let path = home.path().display().to_string();
    let store = store().await;
    let with_home = |name: &str| (name == "HOME").then(|| path.clone());
    put(&tier(&store.address, CredentialsSpec::default(), &with_home).0).await.unwrap();
    assert_eq!(key_of(&store), "from-file");
    let with_key = |name: &str| match name {
        "ALIBABA_CLOUD_ACCESS_KEY_ID" => Some("from-env".to_owned()),
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET" => Some("s".to_owned()),
        other => with_home(other),
    };
    put(&tier(&store.address, CredentialsSpec::default(), &with_key).0).await.unwrap();
    assert_eq!(key_of(&store), "from-env");
    let nothing = |name: &str| (name == "ALIBABA_CLOUD_ECS_METADATA_DISABLED").then(|| "true".to_owned());
    let error = put(&tier(&store.address, CredentialsSpec::default(), &nothing).0).await.unwrap_err();
    assert!(error.kind() == TierErrorKind::Denied && error.to_string().contains("nothing is set up"), "{error}");
}

#[tokio::test]
async fn each_source_of_the_default_chain_comes_before_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cli = r#"{"current":"d","profiles":[{"name":"d","mode":"AK","access_key_id":"cli","access_key_secret":"s"}]}"#;
    let ini = "[default]\naccess_key_id=file\naccess_key_secret=s\n";
    let sts = Server::start(|_, _| Reply::new(200).body(format!(r#"{{"Credentials":{}}}"#, grant("rrsa", HOUR)))).await;
    let uri = Server::start(|_, _| Reply::new(200).body(grant("uri", HOUR))).await;
    // From the first of the order to the last; each source stands alone at the end of its turn. The role of an instance
    // comes before the URI, but cannot be asked here: its address is the metadata service's own.
    let steps: [(&str, Vec<(&str, String)>); 5] = [
        ("env", vec![("ALIBABA_CLOUD_ACCESS_KEY_ID", "env".into()), ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s".into())]),
        (
            "rrsa",
            vec![
                ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/pod".into()),
                ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "acs:ram::1:oidc-provider/p".into()),
                ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file("token", "t")),
                ("ALIBABA_CLOUD_STS_ENDPOINT", sts.address.clone()),
            ],
        ),
        ("cli", vec![("ALIBABA_CLOUD_CONFIG_FILE", file("config.json", cli))]),
        ("file", vec![("ALIBABA_CLOUD_CREDENTIALS_FILE", file("credentials", ini))]),
        ("uri", vec![("ALIBABA_CLOUD_CREDENTIALS_URI", uri.address.clone())]),
    ];
    let store = store().await;
    for first in 0..steps.len() {
        let variables: std::collections::HashMap<&str, String> =
            steps[first..].iter().flat_map(|(_, list)| list.clone()).collect();
        let env = |name: &str| variables.get(name).cloned();
        put(&tier(&store.address, CredentialsSpec::default(), &env).0).await.unwrap();
        assert_eq!(key_of(&store), steps[first].0);
    }
    // The first one that is set up decides, even when it fails and a later one would not.
    let mut variables: std::collections::HashMap<&str, String> =
        steps.iter().skip(1).flat_map(|(_, list)| list.clone()).collect();
    variables.insert("ALIBABA_CLOUD_OIDC_TOKEN_FILE", folder.path().join("gone").display().to_string());
    let env = |name: &str| variables.get(name).cloned();
    let error = put(&tier(&store.address, CredentialsSpec::default(), &env).0).await.unwrap_err();
    assert!(error.kind() == TierErrorKind::Denied && error.to_string().contains("RRSA: cannot read"), "{error}");
}

#[tokio::test]
async fn the_token_service_says_why_it_refuses_and_the_error_repeats_it_without_secrets() {
    let store = store().await;
    for (status, code, kind, part) in [
        (404, "EntityNotExist.Role", TierErrorKind::Denied, "EntityNotExist.Role"),
        (403, "NoPermission", TierErrorKind::Denied, "NoPermission"),
        (404, "InvalidAccessKeyId.NotFound", TierErrorKind::Denied, "InvalidAccessKeyId.NotFound"),
        (400, "SignatureDoesNotMatch", TierErrorKind::Denied, "the key's secret is wrong"),
        (400, "InvalidSecurityToken.Expired", TierErrorKind::Denied, "InvalidSecurityToken.Expired"),
        (400, "AuthenticationFail.OIDCToken.Expired", TierErrorKind::Denied, "OIDCToken.Expired"),
        (400, "Throttling.User", TierErrorKind::Unavailable, "Throttling.User"),
        (503, "ServiceUnavailable", TierErrorKind::Unavailable, "status 503"),
    ] {
        let body = format!(r#"{{"Code":"{code}","Message":"why","RequestId":"RID"}}"#);
        let sts = Server::start(move |_, _| Reply::new(status).body(body.clone())).await;
        let text = format!(
            r#"{{"source":"assume_role","role_arn":"r","sts_endpoint":"{}","base":{{"source":"static",
                "access_key_id":"base","access_key_secret":"hush","security_token":"psst"}}}}"#,
            sts.address
        );
        let (tier, metrics) = tier(&store.address, spec(&text), &|_| None);
        let error = put(&tier).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.kind() == kind && text.contains(part) && text.contains("request id RID"), "{code}: {text}");
        assert!(!text.contains("hush") && !text.contains("psst"), "{text}");
        assert_eq!(metrics.credential_failures.get(), 1, "{code}");
    }
    assert!(store.requests().is_empty(), "without a key nothing is asked of the store");
}

#[tokio::test]
async fn the_metadata_service_without_a_role_with_a_failed_one_or_not_there_gives_a_clear_error() {
    let store = store().await;
    let answers: [(u16, String, TierErrorKind, &str); 4] = [
        (404, String::new(), TierErrorKind::Denied, "has the instance a RAM role?"),
        (200, r#"{"Code":"Failed"}"#.into(), TierErrorKind::Denied, "Failed"),
        (500, String::new(), TierErrorKind::Unavailable, "status 500"),
        (200, grant("old", Duration::ZERO), TierErrorKind::Denied, "check the source and the clock"),
    ];
    for (status, body, kind, part) in answers {
        let metadata = Server::start(move |_, request| match request.method.as_str() {
            "PUT" => Reply::new(200).body("metadata-token"),
            _ => Reply::new(status).body(body.clone()),
        })
        .await;
        let text = format!(r#"{{"source":"ecs_role","role":"r","endpoint":"{}"}}"#, metadata.address);
        let error = put(&tier(&store.address, spec(&text), &|_| None).0).await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(part), "{part}: {error}");
        assert!(!format!("{error:?}").contains("metadata-token"), "{error:?}");
    }
    let nobody = spec(r#"{"source":"ecs_role","role":"r","endpoint":"http://127.0.0.1:1"}"#);
    let error = put(&tier(&store.address, nobody, &|_| None).0).await.unwrap_err();
    assert!(error.kind() == TierErrorKind::Unavailable && error.to_string().contains("ECS role"), "{error}");
}

#[tokio::test]
async fn unknown_fields_of_every_source_are_refused() {
    for text in [
        r#"{"source":"default","x":1}"#,
        r#"{"source":"env","x":1}"#,
        r#"{"source":"ecs_role","x":1}"#,
        r#"{"source":"assume_role","role_arn":"r","x":1}"#,
        r#"{"source":"rrsa","x":1}"#,
    ] {
        assert!(serde_json::from_str::<CredentialsSpec>(text).is_err(), "{text}");
    }
}
