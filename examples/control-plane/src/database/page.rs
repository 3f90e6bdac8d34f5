//! Some of the services: which, and how many at once.

use serde::Deserialize;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};
use utoipa::IntoParams;

use crate::database::columns::{columns, rows};
use crate::service::Row;

/// The most services that one page may have, if it is asked for a page.
pub const LIMIT_MAX: i64 = 1000;

/// Which services.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Filter {
    /// Those of this fleet.
    #[param(nullable = false)]
    pub cluster_id: Option<i64>,
    /// Those on this port.
    #[param(nullable = false)]
    pub listener_port: Option<i64>,
    /// Those of this protocol.
    #[param(nullable = false)]
    pub protocol: Option<String>,
    /// Those of this collection.
    #[param(nullable = false)]
    pub collection: Option<String>,
    /// Those that are active, or those that are not.
    #[param(nullable = false)]
    pub is_active: Option<bool>,
    /// Those that have this in their name, in letters of whatever size.
    #[param(nullable = false)]
    pub name: Option<String>,
    /// Those with a higher id than this.
    #[param(nullable = false)]
    pub after: Option<i64>,
    /// The first so many of them; all of them, if it is not said.
    #[param(nullable = false, minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
}

/// What was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// By id.
    pub rows: Vec<Row>,
    /// How many there are on all pages.
    pub total: i64,
    /// Whether more follow.
    pub has_more: bool,
}

/// A value in a query.
#[derive(Clone)]
enum Value {
    Number(i64),
    Text(String),
    Bool(bool),
}

const LIKE: &str = "lower(s.name) LIKE";

/// A condition with each of the values, whose places are in this order.
fn all_of(conditions: &[(&'static str, Value)]) -> String {
    let condition = |(place, (sql, _)): (usize, &(&str, Value))| match *sql {
        LIKE => format!("{LIKE} ${place} ESCAPE '!'"),
        sql => format!("{sql} ${place}"),
    };
    let all: Vec<_> = (1..).zip(conditions).map(condition).collect();
    if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
}

fn bind<'q>(
    query: Query<'q, Any, AnyArguments>,
    (_, value): &(&'static str, Value),
) -> Query<'q, Any, AnyArguments> {
    match value {
        Value::Number(number) => query.bind(*number),
        Value::Text(text) => query.bind(text.clone()),
        Value::Bool(bool) => query.bind(*bool),
    }
}

impl Filter {
    /// What columns have to be, but for `after`.
    fn conditions(&self) -> Vec<(&'static str, Value)> {
        // An underscore is a letter of names, and one that LIKE takes for any.
        let letter = |c: char| if "!%_".contains(c) { format!("!{c}") } else { c.to_string() };
        let like = |name: &String| {
            format!("%{}%", name.to_lowercase().chars().map(letter).collect::<String>())
        };
        let all = [
            ("s.cluster_id =", self.cluster_id.map(Value::Number)),
            ("s.listener_port =", self.listener_port.map(Value::Number)),
            ("s.protocol =", self.protocol.clone().map(Value::Text)),
            ("s.collection =", self.collection.clone().map(Value::Text)),
            ("s.is_active =", self.is_active.map(Value::Bool)),
            (LIKE, self.name.as_ref().map(like).map(Value::Text)),
        ];
        all.into_iter().filter_map(|(sql, value)| Some((sql, value?))).collect()
    }

    pub(crate) async fn read(&self, tx: &mut Transaction<'_, Any>) -> Result<Page, sqlx::Error> {
        let mut conditions = self.conditions();
        let total = format!("SELECT count(*) FROM services s{}", all_of(&conditions));
        let total = conditions.iter().fold(sqlx::query(AssertSqlSafe(total)), bind);
        let total = total.fetch_one(&mut **tx).await?.try_get(0)?;
        conditions.extend(self.after.map(|after| ("s.id >", Value::Number(after))));
        let sql = format!(
            concat!("SELECT ", columns!(), " FROM services s{} ORDER BY s.id{}"),
            all_of(&conditions),
            // One more, to see whether there is one.
            self.limit.map(|limit| format!(" LIMIT {}", limit + 1)).unwrap_or_default(),
        );
        let found = conditions.iter().fold(sqlx::query(AssertSqlSafe(sql)), bind);
        let mut rows = rows(&found.fetch_all(&mut **tx).await?)?;
        let most = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(rows.len());
        let has_more = rows.len() > most;
        rows.truncate(most);
        Ok(Page { rows, total, has_more })
    }
}
