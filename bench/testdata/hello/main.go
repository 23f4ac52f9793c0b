// Command hello is the yardstick of the benchmarks: the least that an HTTP
// server on the same framework does. It is no part of the program, hence its
// place outside the rooms; it must not grow.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
)

func main() {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"hello": "world"}) })
	log.Fatal(router.Run(os.Args[1]))
}
