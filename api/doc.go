// Package api is the HTTP surface of modelgate: routes, credentials, limits,
// wire types, and the one mapping from errors to answers. It follows
// openapi.yaml, which it serves.
//
// It must not decide who may do what to which model or user (auth and models
// decide and audit, next to the data), must not show storage types or anything
// internal to a caller, and is the only room that knows gin. A *gin.Context
// never leaves it: it is pooled, and whoever keeps one reads another request.
package api
