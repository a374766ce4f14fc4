//! `GET /openapi.json`: the API's own description. Needs no token.
//!
//! It is made from the handlers when they are tested, and kept in `openapi.json`: what makes it is no part of the program.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

const DESCRIPTION: &str = include_str!("openapi.json");

/// The description.
pub(super) async fn get() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION)
}

#[cfg(test)]
mod tests {
    use super::super::{changes, chunks, commit, files, folders, health, holds, undo};
    use super::DESCRIPTION;
    use std::path::Path;
    use syncmount_common::protocol::chunks::{ChunkList, FetchList};
    use syncmount_common::protocol::commit::{ConflictDetails, MissingDetails};
    use syncmount_common::protocol::holds::HeldDetails;
    use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
    use utoipa::openapi::{ComponentsBuilder, OpenApi};
    use utoipa::{Modify, OpenApi as _};

    #[derive(utoipa::OpenApi)]
    #[openapi(
        info(title = "syncmount", description = "A synced folder: change feed, commits, chunks, and plain files."),
        paths(
            health::get, folders::list, folders::get, changes::get, commit::post, chunks::missing, chunks::put,
            chunks::fetch, chunks::get, chunks::manifest, files::get, files::put, files::delete, undo::post, holds::list,
            holds::allow, holds::deny,
        ),
        components(schemas(ChunkList, FetchList, ConflictDetails, MissingDetails, HeldDetails)),
        security(("token" = [])),
        modifiers(&Token),
    )]
    struct Description;

    /// Every path but those that say otherwise wants a bearer token.
    struct Token;

    impl Modify for Token {
        fn modify(&self, openapi: &mut OpenApi) {
            let components = openapi.components.take().unwrap_or_else(|| ComponentsBuilder::new().build());
            let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            let builder: ComponentsBuilder = components.into();
            openapi.components = Some(builder.security_scheme("token", scheme).build());
        }
    }

    #[test]
    fn every_route_is_described() {
        let paths = Description::openapi().paths.paths;
        for path in super::super::ROUTES {
            assert!(paths.contains_key(*path), "{path} is not described");
        }
        assert_eq!(paths.len(), super::super::ROUTES.len());
    }

    /// `UPDATE_OPENAPI=1` writes it.
    #[test]
    fn the_description_is_that_of_the_handlers() {
        let made = Description::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/openapi.json"), &made).unwrap();
        }
        let update = "run `UPDATE_OPENAPI=1 cargo test -p syncmount-server the_description_is`";
        assert!(made == DESCRIPTION || std::env::var_os("UPDATE_OPENAPI").is_some(), "{update}");
    }
}
