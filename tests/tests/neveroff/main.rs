//! The agent dies, is upgraded and is rolled back under a steady load: no connection fails, and nothing gets out.

mod lives;
mod load;
mod stand;
