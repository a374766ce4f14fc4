//! What a client of tomorrow may say: new fields, new parameters, new features, as `docs/protocol.md` describes.

use super::client::{Served, refused, serve};
use super::support::{ROOT, id, mkdir};
use serde_json::{Value, json};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::features::HEADER;

const COMMIT: &str = "/v1/folders/default/commit";

/// A commit with fields that no version knows: in the batch, in the device, in an operation and below it.
async fn of_tomorrow(served: &Served, name: &str) -> Value {
    let mut batch = serde_json::to_value(served.request(vec![mkdir(id(), ROOT, name)]).await).unwrap();
    batch["intent"] = json!("restore");
    batch["device"]["system"] = json!({ "name": "Plan 9" });
    batch["ops"][0]["changed"] = json!(7);
    batch["ops"][0]["attrs"]["uid"] = json!(1000);
    batch
}

async fn names(served: &Served) -> Vec<String> {
    let listing: Value = served.get("/v1/folders/default/files").send().await.unwrap().json().await.unwrap();
    let entries = listing["entries"].as_array().expect("a listing has entries");
    entries.iter().map(|entry| entry["name"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn new_fields_are_ignored_from_clients_that_allow_it_and_refused_from_others() {
    let served = serve().await;
    let batch = of_tomorrow(&served, "refused").await;
    for features in [None, Some("content-deltas"), Some("of-tomorrow, Extra-Fields")] {
        let request = served.post(COMMIT, &batch);
        let request = features.into_iter().fold(request, |request, named| request.header(HEADER, named));
        let body = refused(request, 400, ErrorCode::BadRequest).await;
        assert!(body.message.contains("unknown field `device.system`"), "{}", body.message);
    }
    for field in ["intent", "device", "ops"] {
        // One at a time, so that each depth is seen to be looked at.
        let mut one = serde_json::to_value(served.request(vec![mkdir(id(), ROOT, "refused")]).await).unwrap();
        one[field] = batch[field].clone();
        let body = refused(served.post(COMMIT, &one), 400, ErrorCode::BadRequest).await;
        assert!(body.message.contains("unknown field `"), "{}", body.message);
    }
    assert_eq!(names(&served).await, [""; 0], "nothing of it was done");
    let batch = of_tomorrow(&served, "taken").await;
    let taken = served.post(COMMIT, &batch).header(HEADER, "of-tomorrow").header(HEADER, "extra-fields").send().await;
    assert_eq!(taken.unwrap().status().as_u16(), 200);
    assert_eq!(names(&served).await, ["taken"]);
}

#[tokio::test]
async fn new_parameters_follow_the_same_rule() {
    let served = serve().await;
    let path = "/v1/folders/default/changes?wait=0&order=program";
    let body = refused(served.get(path), 400, ErrorCode::BadRequest).await;
    assert!(body.message.contains("unknown field `order`"), "{}", body.message);
    let taken = served.get(path).header(HEADER, "extra-fields").send().await.unwrap();
    assert_eq!(taken.status().as_u16(), 200);
}

#[tokio::test]
async fn what_is_wrong_stays_wrong_whatever_is_named() {
    let served = serve().await;
    let mut batch = serde_json::to_value(served.request(vec![mkdir(id(), ROOT, "a")]).await).unwrap();
    batch["ops"][0]["op"] = json!("merge");
    refused(served.post(COMMIT, &batch).header(HEADER, "extra-fields"), 400, ErrorCode::BadRequest).await;
    let twice = served.get("/v1/folders/default/changes?wait=0&wait=1").header(HEADER, "extra-fields");
    refused(twice, 400, ErrorCode::BadRequest).await;
    assert_eq!(names(&served).await, [""; 0]);
}

#[tokio::test]
async fn every_reply_names_the_features_also_one_that_refuses() {
    let served = serve().await;
    for path in ["/healthz", "/v1/folders", "/no/such/path", "/v1/chunks/zz"] {
        let reply = served.get(path).send().await.unwrap();
        let named = reply.headers().get_all(HEADER).iter().collect::<Vec<_>>();
        assert_eq!(named, ["content-deltas, chunk-deltas, fetch-deltas, extra-fields, owners"], "{path}");
    }
}
