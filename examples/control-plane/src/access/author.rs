//! Who changes something: what a request says of itself.

use axum::http::{HeaderMap, StatusCode};

use crate::database::write::Origin;
use crate::rest::problem::Problem;

/// The header that names the author of a change, where no token says who he is.
pub(crate) const AUTHOR: &str = "x-deltaplane-author";
/// The header that gives a change a name.
pub(crate) const LABEL: &str = "x-deltaplane-label";

/// The longest of either, in bytes.
const NAME_MAX: usize = 256;

/// The author of a request, and what it calls its change. Who shows a token goes by the
/// name of that.
pub(crate) fn origin(headers: &HeaderMap, token: Option<&str>) -> Result<Origin, Problem> {
    let named = text(headers, AUTHOR)?;
    let author = token.map(str::to_owned).or(named);
    let origin = author.map(Origin::of).unwrap_or_default();
    Ok(origin.called(text(headers, LABEL)?))
}

fn text(headers: &HeaderMap, header: &'static str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).ok().map(str::trim);
    let is_fit = |text: &&str| !text.contains(char::is_control) && text.len() <= NAME_MAX;
    match text.filter(is_fit) {
        Some("") => Ok(None),
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let why = format!(
                "the header {header} is no name; write at most {NAME_MAX} bytes of UTF-8 without \
                 control characters"
            );
            Err(Problem::new(StatusCode::BAD_REQUEST, why))
        }
    }
}
