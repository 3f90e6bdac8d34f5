//! The document that describes the HTTP API, from the handlers themselves, and a
//! page to try it.

use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use swagger_ui_dist::{ApiDefinition, OpenApiSource};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::rest::problem::{Fault, Problem};

const DOCUMENT: &str = "/openapi.json";

/// What callers show, in the document's words.
const TOKEN: &str = "token";

/// What the page is made of.
const ASSETS: &str = "/docs/assets";

/// What is said once for the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Deltaplane",
        description = "Services and raw resources in, Envoy configuration out. Each answer that \
                       is no success is a problem by RFC 9457 and says what to change. Whatever \
                       changes something may name its author by the header X-Deltaplane-Author, \
                       and call the change something by X-Deltaplane-Label: the history shows \
                       both."
    ),
    servers((url = "/")),
    components(schemas(Problem, Fault)),
    tags(
        (name = "services", description = "Services of fleets"),
        (name = "fleets", description = "Who belongs to a fleet, and how it is served"),
        (name = "routes", description = "Which requests go to which services, beside what these say"),
        (name = "certificates", description = "What Envoys show, and whom they trust"),
        (name = "raw resources", description = "Resources of any type, over what services become"),
        (name = "history", description = "Every revision, and back to it"),
        (name = "clients", description = "Who is connected, and who runs what"),
        (name = "server", description = "How the server is"),
    )
)]
struct Whole;

/// A router whose document begins with what is said of the whole.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::with_openapi(Whole::openapi())
}

/// Adds routes with a slash at the end and without one; the document has the
/// path as the handlers give it.
pub(crate) fn both<S: Clone + Send + Sync + 'static>(
    router: OpenApiRouter<S>,
    routes: UtoipaMethodRouter<S>,
) -> OpenApiRouter<S> {
    let (_, paths, methods) = &routes;
    let other =
        |path: &String| path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
    let others: Vec<_> = paths.paths.keys().map(other).collect();
    let methods = methods.clone();
    let add = |router: OpenApiRouter<S>, path: &String| router.route(path, methods.clone());
    others.iter().fold(router.routes(routes), add)
}

/// The routes, with the document that describes them and its page beside them. The document says whether one
/// has to show a token.
pub(crate) fn documented(router: OpenApiRouter, is_by_token: bool) -> Router {
    let (router, mut document) = router.split_for_parts();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let scheme = scheme.description(Some("What `deltaplane token create` printed")).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    let token = SecurityRequirement::new(TOKEN, [""; 0]);
    let nothing = (!is_by_token).then(SecurityRequirement::default);
    document.security = Some(std::iter::once(token).chain(nothing).collect());
    let document = Json(document);
    let assets = swagger_ui_dist::generate_routes(ApiDefinition {
        uri_prefix: ASSETS,
        api_definition: OpenApiSource::Uri(DOCUMENT),
        title: None,
    });
    router
        .route(DOCUMENT, get(async move || document.clone()))
        .route("/docs", get(page))
        .route("/docs/", get(page))
        .merge(assets)
}

/// Swagger UI, told to ask nobody else what he thinks of the document.
async fn page() -> Html<String> {
    Html(format!(
        r##"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Deltaplane</title>
<link rel="stylesheet" href="{ASSETS}/swagger-ui.css">
<div id="page"></div>
<script src="{ASSETS}/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: "{DOCUMENT}", dom_id: "#page", validatorUrl: null, tryItOutEnabled: true}});
</script>
</html>
"##
    ))
}
