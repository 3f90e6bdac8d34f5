//! A change that goes to some of a fleet first: what a fleet's row says of that, what the others are not served
//! yet, how it stands and how it ends, here and at the other servers on the same database.

pub(crate) mod elsewhere;
pub(crate) mod lanes;
pub mod rollout;
pub mod rollouts;
pub(crate) mod trial;
pub(crate) mod unserved;
