package api

import (
	"math"
	"slices"
	"strconv"

	"modelgate/api/oipgrpc/pb"
	"modelgate/inference"
	"modelgate/models"
)

// Statistics and configuration of models, as Triton's clients and perf_analyzer
// ask for them. Both tell of the public contract alone.

// oipStatistics is what models have done.
type oipStatistics struct {
	ModelStats []oipModelStatistics `json:"model_stats"`
}

// oipModelStatistics counts for all callers together, since the server
// started. The version is for who manages the model, and who asked for it.
type oipModelStatistics struct {
	Name           string        `json:"name"`
	Version        string        `json:"version"`
	LastInference  int64         `json:"last_inference"`  // ms since 1970; 0: none
	InferenceCount uint64        `json:"inference_count"` // rows
	ExecutionCount uint64        `json:"execution_count"`
	InferenceStats oipInferStats `json:"inference_stats"`
	BatchStats     []done        `json:"batch_stats"` // always empty
}

type oipInferStats struct {
	Success       oipDuration `json:"success"`
	Fail          oipDuration `json:"fail"`
	Queue         oipDuration `json:"queue"`
	ComputeInput  oipDuration `json:"compute_input"`
	ComputeInfer  oipDuration `json:"compute_infer"`
	ComputeOutput oipDuration `json:"compute_output"`
	CacheHit      oipDuration `json:"cache_hit"` // there is no cache
	CacheMiss     oipDuration `json:"cache_miss"`
}

type oipDuration struct {
	Count uint64 `json:"count"`
	NS    uint64 `json:"ns"`
}

func durationOf(d inference.Duration) oipDuration { return oipDuration{d.Count, uint64(d.Time)} }

func (s *Server) statisticsOf(name, version string, v *models.Version) oipModelStatistics {
	n := s.inference.Statistics(v)
	out := oipModelStatistics{Name: name, Version: version, InferenceCount: n.Rows, ExecutionCount: n.Executions, BatchStats: []done{},
		InferenceStats: oipInferStats{Success: durationOf(n.Success), Fail: durationOf(n.Fail), Queue: durationOf(n.Queue),
			ComputeInput: durationOf(n.Decode), ComputeInfer: durationOf(n.Run), ComputeOutput: durationOf(n.Disclose)}}
	if !n.Last.IsZero() {
		out.LastInference = n.Last.UnixMilli()
	}
	return out
}

// statistics tells of one model, in the version named; without one, of the
// default version, and of all that are ready to who manages the model.
func (s *Server) statistics(c *call, name, version string) (oipStatistics, error) {
	a, err := c.open(name, version)
	if err != nil {
		return oipStatistics{}, err
	}
	if version != "" {
		return oipStatistics{[]oipModelStatistics{s.statisticsOf(name, version, a.Version)}}, nil
	}
	return oipStatistics{s.appendStatistics(nil, c, a)}, nil
}

func (s *Server) appendStatistics(list []oipModelStatistics, c *call, a models.Access) []oipModelStatistics {
	if !s.catalog.Manages(c.who, a.Model) {
		if a.Version == nil || a.Version.State != models.Ready {
			return list
		}
		return append(list, s.statisticsOf(a.Model.Name, "", a.Version))
	}
	for _, v := range a.Model.Versions {
		if v.State == models.Ready {
			list = append(list, s.statisticsOf(a.Model.Name, strconv.Itoa(v.Number), v))
		}
	}
	return list
}

// allStatistics tells of every model open to the caller.
func (s *Server) allStatistics(c *call) (oipStatistics, error) {
	list := []oipModelStatistics{}
	err := s.eachModel(c, func(a models.Access) { list = s.appendStatistics(list, c, a) })
	return oipStatistics{list}, err
}

func (s *Server) oipStatistics(c *call) (oipStatistics, error) {
	return s.statistics(c, c.param("name"), c.param("version"))
}

func (s *Server) rpcStatistics(c *call, in *pb.ModelStatisticsRequest) (*pb.ModelStatisticsResponse, error) {
	var all oipStatistics
	var err error
	switch {
	case in.Name != "":
		all, err = s.statistics(c, in.Name, in.Version)
	case in.Version != "":
		err = invalid("a version is given without a model; name one, or leave out both for all models")
	default:
		all, err = s.allStatistics(c)
	}
	if err != nil {
		return nil, err
	}
	duration := func(d oipDuration) *pb.StatisticDuration { return &pb.StatisticDuration{Count: d.Count, Ns: d.NS} }
	out := &pb.ModelStatisticsResponse{}
	for _, m := range all.ModelStats {
		n := m.InferenceStats
		out.ModelStats = append(out.ModelStats, &pb.ModelStatistics{Name: m.Name, Version: m.Version, LastInference: uint64(m.LastInference),
			InferenceCount: m.InferenceCount, ExecutionCount: m.ExecutionCount, InferenceStats: &pb.InferStatistics{
				Success: duration(n.Success), Fail: duration(n.Fail), Queue: duration(n.Queue), ComputeInput: duration(n.ComputeInput),
				ComputeInfer: duration(n.ComputeInfer), ComputeOutput: duration(n.ComputeOutput), CacheHit: duration(n.CacheHit), CacheMiss: duration(n.CacheMiss)}})
	}
	return out, nil
}

// oipConfig is the part of a model's configuration that is public.
type oipConfig struct {
	Name         string           `json:"name"`
	Platform     string           `json:"platform"`
	MaxBatchSize int64            `json:"max_batch_size"`
	Input        []oipConfigValue `json:"input"`
	Output       []oipConfigValue `json:"output"`
}

type oipConfigValue struct {
	Name     string  `json:"name"`
	DataType string  `json:"data_type"` // "TYPE_FP32"
	Dims     []int64 `json:"dims"`      // without the rows where max_batch_size is above 0
}

func (s *Server) oipConfig(c *call) (oipConfig, error) {
	return s.config(c, c.param("name"), c.param("version"))
}

// config describes a model as Triton would. Where all that goes in and comes
// out begins with rows, as many as one likes, the largest batch is what the
// caller's rate lets through at once.
func (s *Server) config(c *call, name, version string) (oipConfig, error) {
	m, err := s.describe(c, name, version)
	if err != nil {
		return oipConfig{}, err
	}
	out := oipConfig{Name: m.Name, Platform: m.Platform, Input: []oipConfigValue{}, Output: []oipConfigValue{}}
	rows := len(m.Inputs) > 0
	for _, t := range slices.Concat(m.Inputs, m.Outputs) {
		rows = rows && len(t.Shape) > 0 && t.Shape[0] < 0
	}
	skip := 0
	if rows {
		skip, out.MaxBatchSize = 1, min(s.rates.rateOf(&c.who).Limit, math.MaxInt32)
	}
	for _, t := range m.Inputs {
		out.Input = append(out.Input, oipConfigValue{t.Name, configType(t.Datatype), t.Shape[skip:]})
	}
	for _, t := range m.Outputs {
		out.Output = append(out.Output, oipConfigValue{t.Name, configType(t.Datatype), t.Shape[skip:]})
	}
	return out, nil
}

// configType is what a configuration calls a datatype.
func configType(datatype string) string {
	if datatype == "BYTES" {
		return "TYPE_STRING"
	}
	return "TYPE_" + datatype
}

func (s *Server) rpcConfig(c *call, in *pb.ModelConfigRequest) (*pb.ModelConfigResponse, error) {
	m, err := s.config(c, in.Name, in.Version)
	if err != nil {
		return nil, err
	}
	out := &pb.ModelConfig{Name: m.Name, Platform: m.Platform, MaxBatchSize: int32(m.MaxBatchSize)}
	for _, t := range m.Input {
		out.Input = append(out.Input, &pb.ModelInput{Name: t.Name, DataType: pb.DataType(pb.DataType_value[t.DataType]), Dims: t.Dims})
	}
	for _, t := range m.Output {
		out.Output = append(out.Output, &pb.ModelOutput{Name: t.Name, DataType: pb.DataType(pb.DataType_value[t.DataType]), Dims: t.Dims})
	}
	return &pb.ModelConfigResponse{Config: out}, nil
}
