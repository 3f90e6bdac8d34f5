//! Rows of the table `services`, between SQL and Rust.

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row as _};

use crate::database::changes::Change;
use crate::raw::columns::places;
use crate::service::upstream::Place;
use crate::service::{Definition, Row};

/// The columns of `services s`, for the middle of a `concat!`: what is sent to
/// a database is known when this is compiled. What is yes or no has a type of
/// its own in one of them, and is a number in both by this.
macro_rules! columns {
    () => {
        "s.id, s.revision, s.name, s.cluster_id, s.listener_port, s.upstream_host, \
         s.upstream_port, s.protocol, s.health_check_path, s.domains, s.prefix, s.upstreams, \
         s.timeout_ms, s.connect_timeout_ms, s.retries, CAST(s.http2 AS INTEGER) AS http2, \
         CAST(s.websocket AS INTEGER) AS websocket, \
         CAST(s.upstream_tls AS INTEGER) AS upstream_tls, \
         CAST(s.tls_verify AS INTEGER) AS tls_verify, s.tls_sni, s.tls_ca, \
         s.health_check_interval_ms, CAST(s.is_active AS INTEGER) AS is_active, s.collection, \
         s.certificate"
    };
}
pub(crate) use columns;

/// The columns that somebody chooses, in the order in which they are bound.
const FIELDS: [&str; 23] = [
    "name",
    "cluster_id",
    "listener_port",
    "upstream_host",
    "upstream_port",
    "protocol",
    "health_check_path",
    "domains",
    "prefix",
    "upstreams",
    "timeout_ms",
    "connect_timeout_ms",
    "retries",
    "http2",
    "websocket",
    "upstream_tls",
    "tls_verify",
    "tls_sni",
    "tls_ca",
    "health_check_interval_ms",
    "is_active",
    "collection",
    "certificate",
];

/// Stores new rows, whose fields [`bind`] binds one after the other.
pub(crate) fn insert(rows: usize) -> String {
    let places = places(1, rows, FIELDS.len());
    format!("INSERT INTO services ({}) VALUES {places}", FIELDS.join(", "))
}

/// Replaces rows: of each, the id is bound, and then what [`bind`] binds.
pub(crate) fn update(rows: usize) -> String {
    let places = places(1, rows, 1 + FIELDS.len());
    let set: Vec<_> = FIELDS.iter().map(|field| format!("{field} = given.{field}")).collect();
    format!(
        "WITH given (id, {}) AS (VALUES {places}) UPDATE services SET {} FROM given \
         WHERE services.id = given.id",
        FIELDS.join(", "),
        set.join(", ")
    )
}

/// Stores a row under the id that it had before.
pub(crate) fn restored<'q>(id: i64, d: &Definition) -> Bound<'q> {
    let places = places(1, 1, FIELDS.len() + 1);
    let sql = format!("INSERT INTO services ({}, id) VALUES {places}", FIELDS.join(", "));
    bind(sqlx::query(AssertSqlSafe(sql)), d).bind(id)
}

type Bound<'q> = Query<'q, Any, AnyArguments>;

/// Binds the fields of a row.
pub(crate) fn bind<'q>(query: Bound<'q>, d: &Definition) -> Bound<'q> {
    query
        .bind(d.name.clone())
        .bind(d.cluster_id)
        .bind(d.listener_port)
        .bind(d.upstream_host.clone())
        .bind(d.upstream_port)
        .bind(d.protocol.clone())
        .bind(d.health_check_path.clone())
        .bind(serde_json::Value::from(d.domains.clone()).to_string())
        .bind(d.prefix.clone())
        .bind(serde_json::json!(d.upstreams).to_string())
        .bind(d.timeout_ms)
        .bind(d.connect_timeout_ms)
        .bind(d.retries)
        .bind(d.http2)
        .bind(d.websocket)
        .bind(d.upstream_tls)
        .bind(d.tls_verify)
        .bind(d.tls_sni.clone())
        .bind(d.tls_ca.clone())
        .bind(d.health_check_interval_ms)
        .bind(d.is_active)
        .bind(d.collection.clone())
        .bind(d.certificate.clone())
}

pub(crate) fn rows(found: &[AnyRow]) -> Result<Vec<Row>, sqlx::Error> {
    found.iter().map(row).collect()
}

pub(crate) fn row(r: &AnyRow) -> Result<Row, sqlx::Error> {
    let domains: String = r.try_get("domains")?;
    let is = |column| r.try_get::<i64, _>(column).map(|number| number != 0);
    let upstream_tls: Option<i64> = r.try_get("upstream_tls")?;
    let definition = Definition {
        name: r.try_get("name")?,
        cluster_id: r.try_get("cluster_id")?,
        listener_port: r.try_get("listener_port")?,
        upstream_host: r.try_get("upstream_host")?,
        upstream_port: r.try_get("upstream_port")?,
        protocol: r.try_get("protocol")?,
        health_check_path: r.try_get("health_check_path")?,
        // What is no list of strings is one domain, and no valid one: the
        // check of the row then says so with the text that stands there.
        domains: serde_json::from_str(&domains).unwrap_or_else(|_| vec![domains]),
        prefix: r.try_get("prefix")?,
        upstreams: upstreams(r.try_get("upstreams")?),
        timeout_ms: r.try_get("timeout_ms")?,
        connect_timeout_ms: r.try_get("connect_timeout_ms")?,
        retries: r.try_get("retries")?,
        http2: is("http2")?,
        websocket: is("websocket")?,
        upstream_tls: upstream_tls.map(|number| number != 0),
        tls_verify: is("tls_verify")?,
        tls_sni: r.try_get("tls_sni")?,
        tls_ca: r.try_get("tls_ca")?,
        health_check_interval_ms: r.try_get("health_check_interval_ms")?,
        is_active: is("is_active")?,
        collection: r.try_get("collection")?,
        certificate: r.try_get("certificate")?,
    };
    Ok(Row {
        id: r.try_get("id")?,
        revision: r.try_get("revision")?,
        definition: first_upstream(definition),
    })
}

/// What is no list of places is one place, and no valid one.
fn upstreams(json: String) -> Vec<Place> {
    serde_json::from_str(&json).unwrap_or_else(|_| vec![Place::new(json, 0)])
}

/// Who writes past the HTTP API need not say the first place twice.
fn first_upstream(mut d: Definition) -> Definition {
    if let Some(Place { host, port, .. }) = d.upstreams.first() {
        (d.upstream_host, d.upstream_port) = (host.clone(), *port);
    }
    d
}

pub(crate) fn change(r: &AnyRow) -> Result<Change, sqlx::Error> {
    let present: Option<i64> = r.try_get("id")?;
    Ok(Change {
        cluster_id: r.try_get("changed_cluster")?,
        id: r.try_get("changed_id")?,
        row: present.map(|_| row(r)).transpose()?,
    })
}
