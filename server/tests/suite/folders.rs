//! What folders are called.

use crate::support::*;
use rusqlite::Connection;
use syncmount_server::data::Data;
use syncmount_server::service::ServiceError;

#[tokio::test]
async fn no_name_has_the_form_of_an_id() {
    for world in worlds().await {
        let id = world.service.folder(F).await.unwrap().id.to_string();
        for name in
            [id.clone(), id.to_uppercase(), id.replace('-', ""), "00000000-0000-0000-0000-000000000000".to_owned()]
        {
            let refused = world.service.add_folder(&name).await;
            assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{name}: {refused:?}");
        }
        assert!(world.service.add_folder("0192-not-an-id").await.unwrap());
        for wanted in [id.clone(), format!("urn:uuid:{id}"), F.to_owned()] {
            assert_eq!(world.service.folder(&wanted).await.unwrap().name, F, "{wanted}");
        }
    }
}

#[tokio::test]
async fn a_folder_of_before_that_shadows_another_goes_on_and_the_other_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let data = Data::take(directory.path()).await.unwrap();
    data.service.add_folder("shadow").await.unwrap();
    let (id, shadow) = (data.service.folder(F).await.unwrap().id, data.service.folder("shadow").await.unwrap().id);
    data.service.close().unwrap();
    drop(data);
    let database = Connection::open(directory.path().join("meta.sqlite")).unwrap();
    database.execute("UPDATE folders SET name = ? WHERE name = 'shadow'", [id.to_string()]).unwrap();
    drop(database);
    let data = Data::take(directory.path()).await.unwrap();
    let found = |wanted: String| {
        let service = data.service.clone();
        async move { service.folder(&wanted).await.unwrap().id }
    };
    assert_eq!(found(id.to_string()).await, shadow, "who used the name finds the same folder");
    assert_eq!((found(shadow.to_string()).await, found(F.to_owned()).await), (shadow, id));
    assert_eq!(found(format!("urn:uuid:{id}")).await, id);
}
