//! A jail for one program: namespaces with nothing in them but doors that are served from outside (Linux).
